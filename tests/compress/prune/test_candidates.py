"""Which shapes are looked at, and which of those that were measured is taken."""

from __future__ import annotations

from pathlib import Path

from tiny_families import tiny_decoder

from toolchain.checkpoint.inspect import inspect
from toolchain.compress.prune.candidates import Candidate, find_candidates
from toolchain.compress.prune.layout import find_layout
from toolchain.compress.prune.settings import Prune
from toolchain.compress.prune.shape import Shape
from toolchain.compress.prune.stage import _best
from toolchain.plan import type_sizes


def test_few_shapes_of_whole_blocks_are_joined_by_finer_ones(tmp_path: Path) -> None:
    """What snapping costs: dropping layers alone would be left."""
    info = inspect(tiny_decoder(tmp_path / "base", "llama", intermediate_size=1024))
    layout = find_layout(info)
    wanted = {"ratio": 0.2437, "axes": ("layers", "ffn")}  # a layer is 0.238, FFN 736 0.249
    found = find_candidates(info, layout, Prune.model_validate(wanted))
    assert [one.shape.layers for one in found.found if one.step == 256] == [3]
    assert {one.step for one in found.found} == {256, 32}
    assert "in multiples of 32 is taken" in found.notes[0] and len(found.notes) == 1
    finer = find_candidates(info, layout, Prune.model_validate({**wanted, "snap": 32}))
    assert finer.notes == ()
    assert {one.shape for one in finer.found} == {one.shape for one in found.found}
    enough = find_candidates(info, layout, Prune.model_validate({**wanted, "candidates": 1}))
    assert enough.notes == () and len(enough.found) == 1
    whole = type_sizes(info, ["Q4_K_M"])[0].weights_bytes
    size = {"size_bytes": int(whole * (1 - 0.2437)), "axes": ("layers", "ffn")}
    held = find_candidates(info, layout, Prune.model_validate(size))
    assert {one.step for one in held.found} == {256} and "snap 32 may" in held.notes[0]


def test_finer_widths_have_to_be_worth_larger_types() -> None:
    shape = Shape(2, 1, 1, 8, 256, 64, 100)
    whole, finer = (Candidate(shape, 10, 0.1, step) for step in (256, 32))
    assert _best([whole, finer], [0.1, 0.06]) == 0
    assert _best([whole, finer], [0.1, 0.04]) == 1
    assert _best([finer, finer], [0.1, 0.09]) == 1
