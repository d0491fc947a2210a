"""A recipe that trains: data files of each format and language to a merged, proven bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import edgeforge
from tiny_models import tiny_llama

RECIPE = """\
stages: [evaluate, finetune, merge, evaluate, export, bundle, smoke]
data: {files: [FILES], split: [0.7, 0.1, 0.2]}
finetune: {epochs: 1, rank: 4, learning_rate: 0.002, batch_size: 4}
export: {calibration_tokens: 512, quantization: Q8_0}
evaluate: {max_tokens: 256, context_tokens: 64, task_examples: 6}
quality: {max_kld: 5.0, min_task_share: 0.0}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The bundle, and the folder with recipe and data (English and Chinese rows)."""
    folder = tmp_path_factory.mktemp("recipe")
    tiny_llama(folder / "tiny", hidden=64, ffn=96)
    done = edgeforge("data", "sample", "--format", "qa", "--count", 60, "--out", folder / "qa.csv")
    assert done.returncode == 0, done.stderr
    (folder / "learn.yaml").write_text(RECIPE.replace("FILES", "qa.csv"))
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder / "build" / "tiny-learn" / "laptop", folder


def build(folder: Path, *more: object) -> object:
    given = ("--model", folder / "tiny", "--recipe", folder / "learn.yaml")
    return edgeforge("build", "--target", "laptop", *given, "--out", folder / "build", *more)


def test_the_bundle_tells_the_whole_chain(built: tuple[Path, Path]) -> None:
    manifest = json.loads((built[0] / "manifest.json").read_text("utf-8"))
    stages = [entry["stage"] for entry in manifest["chain"]]
    assert stages == [
        *("prepare", "evaluate", "finetune", "merge", "evaluate", "convert", "quantize"),
    ]
    assert [found["measured"] for found in manifest["evaluations"]] == ["checkpoint", "merge"]
    before, after = (found["perplexity"] for found in manifest["evaluations"])
    assert after < before
    assert manifest["training"][0]["trainable_parameters"] > 0
    assert {"train", "validation", "test"} == set(manifest["chain"][0]["measurements"]["splits"])


@pytest.mark.parametrize(
    ("report", "heading"), [("report.md", "Before and after"), ("report.zh-CN.md", "前后对比")]
)
def test_the_report_puts_before_and_after_side_by_side(
    built: tuple[Path, Path], report: str, heading: str
) -> None:
    text = (built[0] / report).read_text("utf-8")
    assert f"## {heading}" in text and "loss_curve.svg" in text
    assert "Q8_0" in text.split(f"## {heading}")[1].splitlines()[2]
    assert (built[0] / "loss_curve.svg").read_text("utf-8").startswith("<?xml")


def test_the_ledger_has_every_stage_and_its_cost(built: tuple[Path, Path]) -> None:
    own = json.loads((built[0] / "ledger.json").read_text("utf-8"))
    entries = {entry["stage"]: entry for entry in own["entries"]}
    assert list(entries) == ["original", "finetune", "merge", "Q8_0"]
    assert all("cost" not in entry for entry in entries.values())
    assert entries["merge"]["kld_mean"] > 0 == entries["original"]["kld_mean"]
    assert entries["Q8_0"]["kld_mean"] == pytest.approx(entries["merge"]["kld_mean"], rel=0.2)
    assert entries["Q8_0"]["compression_ratio"] > 1.8
    assert entries["finetune"]["parameters"] > entries["merge"]["parameters"]
    assert entries["merge"]["tasks"] and "exact_match" in entries["Q8_0"]["tasks"]["data"]
    full = json.loads((built[0] / "log" / "ledger.json").read_text("utf-8"))
    assert all(e["cost"]["peak_rss_bytes"] > 1e7 for e in full["entries"][1:])
    page = (built[0] / "log" / "report.html").read_text("utf-8")
    assert 'id="zh-CN"' in page and "Q8_0" in page
    done = edgeforge("report", built[0])
    assert done.returncode == 0 and "passed" in done.stdout and "report.html" in done.stdout


def test_nothing_is_trained_again(built: tuple[Path, Path]) -> None:
    done = build(built[1])
    assert done.returncode == 0 and "up to date" in done.stdout  # type: ignore[attr-defined]


def test_the_trained_adapter_can_be_asked(built: tuple[Path, Path]) -> None:
    adapter = next((built[1] / "build" / "tiny-learn" / ".stages").glob("finetune-*"))
    done = edgeforge("generate", adapter, "lamp on", "--max-tokens", 4, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["kind"] == "adapter"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("ask,reply\nwho,me\n", "ask"),
        ("question,answer\n", "no rows"),
    ],
)
def test_data_that_cannot_be_trained_on(
    built: tuple[Path, Path], content: str, fault: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text(content)
    done = build(built[1], "--data", bad)
    assert done.returncode == 2  # type: ignore[attr-defined]
    assert fault in done.stderr and "Traceback" not in done.stderr  # type: ignore[attr-defined]
