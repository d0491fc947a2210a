"""The matrix: cells on tiny models, and a runner that no crash and no hang of an engine ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from matrix import cells, runner  # noqa: E402
from matrix.place import Place, make  # noqa: E402
from matrix.record import data, page  # noqa: E402
from matrix.templates import ENGINES  # noqa: E402

from common.errors import UserError  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A tiny Qwen2 without real files."""
    made = Place("qwen2", tmp_path_factory.mktemp("matrix") / "qwen2", None, small=True)
    made.folder.mkdir()
    make(made)
    return made


def test_exports_of_a_decoder(place: Place) -> None:
    assert cells.load(place).figures["parameters"] > 0
    proven = cells.gguf(place)
    assert proven.figures["kld"] < 1e-6 and proven.figures["pre_tokenizer"] == "qwen2 (structure)"
    assert any("NFC" in limit for limit in proven.limits)
    quantized = cells.gguf_type(place, "Q8_0")
    assert 0 < quantized.figures["kld"] < cells.MAX_KLD["Q8_0"]
    assert cells.onnx(place).figures["max_abs_diff"] < 1e-3
    assert set(cells.onnx_int8(place).figures) == set(cells.ONNX_VARIANTS)


def test_a_type_that_loses_too_much_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cells.MAX_KLD, "Q4_0", 1e-12)
    with pytest.raises(UserError, match="Q4_0 loses"):
        cells.gguf_type(place, "Q4_0")


def test_an_axis_and_the_vocabulary(place: Place) -> None:
    assert 0.01 < cells.prune(place, "ffn").figures["removed"] < 0.3
    before, after = cells.prune_vocab(place).figures["vocabulary"]
    assert after <= before


def test_an_encoder(tmp_path: Path) -> None:
    place = Place("roberta", tmp_path / "roberta", None, small=True)
    place.folder.mkdir()
    make(place)
    assert cells.load(place).limits == ()
    proven = cells.gguf(place)
    assert proven.figures["cosine"] > 0.9999
    assert proven.limits[0].startswith("vectors alone")
    assert cells.gguf_type(place, "Q8_0").figures["cosine"] > 0.99
    with pytest.raises(UserError, match="encoders"):
        cells.ollama(place)


def _crash(_place: Place) -> cells.Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    return cells.Outcome()


def _hang(_place: Place) -> cells.Outcome:
    time.sleep(60)
    return cells.Outcome()


def _refuse(_place: Place) -> cells.Outcome:
    raise UserError(f"not with {_place.folder}/checkpoint", "another one")


def _absent(_place: Place) -> cells.Outcome:
    raise cells.NotHere("no Ollama here")


def _wrong(_place: Place) -> cells.Outcome:
    raise KeyError("rope")


def test_every_end_of_a_cell_is_a_verdict(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In forks of this process: what is set here holds there."""
    own = {"load": _crash, "finetune": _refuse, "merge": cells.load, "distill": _wrong,
           "gguf": _hang, "F16": cells.load, "sparsify": _absent}  # fmt: skip
    monkeypatch.setattr(runner, "cells_of", lambda _place: own)
    monkeypatch.setattr(runner, "LIMIT_SEC", 2.0)
    context = multiprocessing.get_context("fork")
    trial = Place("qwen2", tmp_path / "qwen2", None, small=True)

    def family(again: frozenset[str] = frozenset()) -> dict[str, runner.Result]:
        found = runner._family(context, trial, lambda _name: True, {"torch": "1"}, again)
        return {result.cell: result for result in found}

    monkeypatch.setattr(runner, "make", _small_make)
    found = family()
    assert found["load"].verdict == "fault" and "signal 9" in found["load"].details[0]
    assert found["finetune"].verdict == "refused"
    assert found["finetune"].details == ("not with checkpoint",)
    assert found["merge"].details == found["finetune"].details, "it needs what was refused"
    assert found["distill"].details == ("KeyError: 'rope'",)
    assert found["gguf"].verdict == "fault" and "not done in 2 s" in found["gguf"].details[0]
    assert found["F16"].verdict == "fault"
    assert (found["sparsify"].verdict, found["sparsify"].details) == (
        "skipped",
        ("no Ollama here",),
    )
    assert family() == found, "finished cells are kept"
    own["load"] = _refuse
    assert family(frozenset({"fault"}))["load"].verdict == "refused"


def _small_make(place: Place) -> None:
    place.checkpoint.mkdir(parents=True, exist_ok=True)
    (place.checkpoint / "config.json").write_text('{"model_type": "qwen2"}')


def test_what_was_found_becomes_a_page(place: Place) -> None:
    results = [
        runner.Result("qwen2", "load", "works", figures={"kld": 0.123456789}),
        runner.Result("qwen2", "gguf", "limit", ("one text | differs",)),
        runner.Result("qwen2", "onnx", "refused", ("a long\n  reason",), "GGUF"),
    ]
    found = data([place], results, {"torch": "2", "matrix": "1"}, {})
    row = found["families"]["qwen2"]
    assert row["model_types"] == ["qwen2"] and row["tied"] is True
    assert row["cells"]["load"]["figures"] == {"kld": 0.1235}
    assert row["cells"]["onnx"]["foreseen"] is False, "nothing keeps Qwen2 from ONNX"
    text = page(found)
    assert "| Qwen2.5 | limited (1) |" in text and "1. one text | differs" in text
    assert "2. a long reason → GGUF" in text
    assert "torch 2" in text and "matrix 1" not in text


def test_renderers_agree_on_a_plain_template() -> None:
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    talk = ({"role": "user", "content": " hi "},)
    assert ENGINES["our serving"](template, talk, None) == "[user] hi "
    assert ENGINES["llama-cpp-python"](template, talk, None) == "[user] hi "
    assert ENGINES["llama.cpp built-in"](template, talk, None) == "(refused)"
