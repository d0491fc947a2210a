"""The choice among INT8 variants: by measured speed, within budget, mended where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_encoders import exported, texts, write_rows

from common.errors import UserError
from toolchain.export.onnx.encoder_choose import CHOSEN, NOT_TRIED, PASSED_OVER, Wishes, choose
from toolchain.export.onnx.encoder_quality import Budget
from toolchain.export.onnx.encoder_speed import Shape, time_encoders
from toolchain.pipeline import Workspace

SHAPES = (Shape(batch=1, tokens=16), Shape(batch=2, tokens=8))


def wishes(folder: Path, **more: Any) -> Wishes:
    file = write_rows(folder / "texts.jsonl", [{"text": text} for text in texts(40)])
    return Wishes(measurement=file, shapes=SHAPES, threads=1, **more)


def test_a_named_variant_is_taken_with_its_figures(tmp_path: Path) -> None:
    found = choose(
        exported("embedding"),
        wishes(tmp_path, variant="int8-block"),
        Workspace(tmp_path / "w"),
        say=lambda _: None,
    )
    said = found.as_json()
    assert said["chosen"] == "int8-block" == found.quantized.measurements["variant"]
    (row,) = said["tried"]
    assert row["verdict"] == CHOSEN and "within budget" in row["reason"]
    assert set(row["speedup"]) == {"1x16", "2x8"} == set(said["fp32_seconds"])
    assert row["figures"]["cosine_mean"] > 0.99
    assert 0 < row["size_bytes"] < said["fp32_size_bytes"]


def test_out_of_budget_is_mended_and_both_are_recorded(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    budget = Budget(min_cosine_mean=0.99995)
    wanted = wishes(tmp_path, variant="int8-dynamic", budget=budget)
    found = choose(exported("embedding"), wanted, workspace, say=lambda _: None)
    plain, mended = found.as_json()["tried"]
    assert plain["verdict"] == PASSED_OVER and "mean cosine" in plain["reason"]
    assert plain["speedup"] == {} and plain["exclude"] == ()
    assert mended["verdict"] == CHOSEN and mended["figures"]["cosine_mean"] >= 0.99995
    exclude = found.as_json()["exclusions"]["int8-dynamic"]
    assert exclude == list(mended["exclude"]) == found.quantized.measurements["fp32_nodes"]
    assert mended["name"] == f"int8-dynamic, {len(exclude)} nodes FP32"
    again = Workspace(tmp_path / "w")
    choose(exported("embedding"), wanted, again, say=lambda _: None)
    assert all(event.reused for event in again.events) and len(again.events) == 3


def test_static_waits_for_calibration_data(tmp_path: Path) -> None:
    source = exported("embedding")
    budget = Budget(min_cosine_mean=-1)
    try:
        found = choose(source, wishes(tmp_path, budget=budget), Workspace(tmp_path / "w"))
        rows = found.as_json()["tried"]
        assert {row["name"]: row["verdict"] for row in rows}["int8-static"] == NOT_TRIED
        assert sum(row["verdict"] == CHOSEN for row in rows) == 1
    except UserError as error:  # a tiny model may be slower in INT8 here: then it says so
        assert "is within budget and faster" in error.problem
        assert any("int8-static: no calibration data given" in line for line in error.details)
        assert any("within budget, but" in line for line in error.details)


def test_a_named_static_variant_needs_calibration_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="int8-static needs calibration data"):
        choose(
            exported("embedding"),
            wishes(tmp_path, variant="int8-static"),
            Workspace(tmp_path / "w"),
            say=lambda _: None,
        )


def test_times_of_every_encoder_and_shape() -> None:
    folder = exported().path
    times = time_encoders({"a": folder, "b": folder}, SHAPES, threads=1)
    assert {name: set(row) for name, row in times.items()} == {
        "a": {"1x16", "2x8"}, "b": {"1x16", "2x8"},
    }  # fmt: skip
    assert all(value > 0 for row in times.values() for value in row.values())
