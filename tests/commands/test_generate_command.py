"""`edgeforge generate`: one prompt, one answer, from a checkpoint."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from tiny_models import tiny_llama

from toolchain.cli import main
from toolchain.models import OpenOptions, open_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("m") / "tiny", hidden=64, ffn=96)


def test_the_answer_is_the_models_greedy_one(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(checkpoint), "lamp on", "--max-tokens", "6"]) == 0
    printed = capsys.readouterr().out
    with open_model(str(checkpoint), OpenOptions()) as model:
        ids = model.prompt_ids([{"role": "user", "content": "lamp on"}])
        expected = model.runtime.generate(ids, 6)
    assert printed == expected.text + "\n"
    assert main(["generate", str(checkpoint), "lamp on", "--max-tokens", "6", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["answer"] == expected.text
    assert (facts["prompt_tokens"], facts["answer_tokens"]) == (len(ids), len(expected.token_ids))


def test_raw_text_goes_in_without_a_template(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Once upon a time"))
    assert main(["generate", str(checkpoint), "--raw", "--max-tokens", "3", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    with open_model(str(checkpoint), OpenOptions()) as model:
        assert facts["prompt_tokens"] == len(model.runtime.tokenize("Once upon a time"))


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [(["  "], "the prompt is empty"), (["x", "--raw", "--system", "y"], "--raw takes no --system")],
)
def test_bad_input(
    checkpoint: Path, arguments: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(checkpoint), *arguments]) == 2
    assert fault in capsys.readouterr().err
