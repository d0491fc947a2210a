"""What the matrix measured is what `check` says; what it refused is refused before work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_families import FAMILIES, MATRIX, ROPES, TOKENIZERS, encoder_of, tiny_decoder

from common.errors import UserError
from common.files import read_json, write_json
from toolchain.check import measured
from toolchain.check.parts import PARTS, findings, require_parts
from toolchain.checkpoint.inspect import inspect
from toolchain.recipe import Recipe

DATA = read_json(measured.FILE)


def checkpoint(family: str, folder: Path) -> Path:
    """Of a test's size, with the family's own tokenizer."""
    if FAMILIES[family].task:
        return encoder_of(folder, family)
    return tiny_decoder(folder, family, tokenizer="own")


def cell(verdict: str, *details: str, **more: Any) -> dict[str, Any]:
    return {"verdict": verdict, "details": list(details), **more}


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The data file with one Llama, with these cells."""

    def write(**cells: Any) -> None:
        named = {name.replace("_", " "): value for name, value in cells.items()}
        row = {"title": "Llama 9", "model_types": ["llama"], "architectures": [], "rope": "",
               "tied": False, "cells": named}  # fmt: skip
        write_json(tmp_path / "families.json", {"families": {"llama9": row}})
        monkeypatch.setattr(measured, "FILE", tmp_path / "families.json")
        measured._families.cache_clear()

    yield write
    monkeypatch.undo()
    measured._families.cache_clear()


def test_every_family_has_every_cell_and_none_is_unknown() -> None:
    assert {*DATA["families"], *DATA["tokenizers"]} == set(MATRIX)
    names = {name for cells in measured.CELLS.values() for name in cells}
    for family, row in DATA["families"].items():
        if family not in ROPES:
            assert set(row["cells"]) == names, family
        for name, found in row["cells"].items():
            assert found["verdict"] in ("works", "limit", "refused", "skipped"), (family, name)
            assert found["verdict"] == "works" or found["details"], (family, name)


def test_the_page_is_that_of_the_data() -> None:
    import sys

    root = Path(__file__).resolve().parents[2]
    sys.path.insert(0, str(root / "scripts"))
    from matrix.record import page

    assert (root / measured.PAGE).read_text("utf-8") == page(DATA)


@pytest.mark.parametrize("family", [name for name in MATRIX if name not in TOKENIZERS])
def test_check_says_what_was_measured(family: str, tmp_path: Path) -> None:
    """No cell that was refused is one that check would let through."""
    info = inspect(checkpoint(family, tmp_path))
    verdicts = {found.part: found for found in findings(info)}
    row = DATA["families"][family]
    for part, cells in measured.CELLS.items():
        refused = [n for n in cells if row["cells"].get(n, {}).get("verdict") == "refused"]
        if not refused or (FAMILIES[family].task and part == "gguf"):
            continue
        assert verdicts[part].verdict in ("refused", "limit"), (part, refused)
        if len(refused) == len(cells):
            assert verdicts[part].verdict == "refused", part
    assert verdicts["measured"].verdict in ("works", "limit")


def test_what_only_the_trial_showed_is_refused_before_work(only: Any, tmp_path: Path) -> None:
    only(gguf=cell("refused", "its file is another model", mend="ONNX"), F16=cell("works"))
    info = inspect(tiny_decoder(tmp_path, "llama"))
    found = {f.part: f for f in findings(info)}["gguf"]
    assert (found.verdict, found.mend) == ("refused", "ONNX")
    assert "measured with Llama 9" in found.details[0]
    with pytest.raises(UserError, match="its file is another model"):
        require_parts(info, Recipe(), "gguf")
    require_parts(info, Recipe(), "onnx")


def test_one_axis_that_failed_is_a_limit(only: Any, tmp_path: Path) -> None:
    only(prune_layers=cell("works"), prune_hidden=cell("refused", "norms differ"))
    info = inspect(tiny_decoder(tmp_path, "llama"))
    found = {f.part: f for f in findings(info)}
    assert found["prune"].verdict == "limit"
    assert "prune hidden was refused with Llama 9: norms differ" in found["prune"].details
    assert found["measured"].details == ("as Llama 9 (docs/models.md): refused: prune hidden",)


def test_a_refusal_that_is_foreseen_is_said_by_the_part_alone(only: Any, tmp_path: Path) -> None:
    only(onnx=cell("refused", "a head of 24", foreseen=True))
    info = inspect(tiny_decoder(tmp_path, "llama"))
    assert {f.part: f.verdict for f in findings(info)}["onnx"] == "works"


def test_a_family_that_was_not_measured_is_named(only: Any, tmp_path: Path) -> None:
    only()
    found = {f.part: f for f in findings(inspect(tiny_decoder(tmp_path, "starcoder2")))}
    assert found["measured"].verdict == "limit"
    assert "no model of type 'starcoder2' is in the matrix" in found["measured"].details[0]


def test_cells_belong_to_parts_that_exist() -> None:
    assert set(measured.CELLS) <= set(PARTS)
