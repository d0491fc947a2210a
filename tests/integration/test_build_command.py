"""The real command line, from a checkpoint to a smoke-tested bundle, on a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import ROOT, edgeforge
from tiny_models import tiny_llama

MODELS = ROOT.parent / "shared" / "assets" / "models"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small enough for a test; random weights keep no quality, so the budget is wide."""
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(
        "export: {calibration_tokens: 1024}\n"
        "evaluate: {max_tokens: 512, context_tokens: 128}\n"
        "quality: {max_kld: 5.0}\n"
    )
    return path


@pytest.fixture(scope="module")
def built(
    checkpoint: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("out")
    done = edgeforge(
        "build", "--target", "jetson", "--model", checkpoint, "--recipe", recipe, "--out", out
    )
    return out, done


def test_build_leaves_a_proven_bundle(
    built: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, done = built
    bundle = out / "tiny" / "jetson-orin-nano"
    assert done.returncode == 0, done.stderr
    assert "smoke test passed" in done.stdout
    expected = {
        "model-Q4_K_M.gguf", "Modelfile", "prompts.jsonl", "smoke_test.py", "manifest.json",
        "report.md", "report.zh-CN.md", "SHA256SUMS", "tokenizer", "log",
    }  # fmt: skip
    assert expected <= {path.name for path in bundle.iterdir()}
    sums = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=bundle, capture_output=True
    )
    assert sums.returncode == 0, sums.stderr
    gates = json.loads((bundle / "manifest.json").read_text())["gates"]
    assert {gate["name"]: gate["passed"] for gate in gates}["token ids"] is True
    assert not list(out.rglob("*.partial*"))


def test_a_second_build_is_up_to_date_at_once(
    built: tuple[Path, subprocess.CompletedProcess[str]], checkpoint: Path, recipe: Path
) -> None:
    out, _ = built
    same = ("--target", "jetson", "--model", checkpoint, "--recipe", recipe, "--out", out)
    signature = out / "tiny" / "jetson-orin-nano" / "model.sig"  # which came after the build
    signature.write_text("{}")
    again = edgeforge("build", *same)
    signature.unlink()
    assert again.returncode == 0
    assert again.stdout.startswith("up to date")
    model = out / "tiny" / "jetson-orin-nano" / "model-Q4_K_M.gguf"
    model.write_bytes(model.read_bytes()[:-1] + b"\x01")
    mended = edgeforge("build", *same, "--json")
    assert json.loads(mended.stdout)["passed"] is True
    assert "convert" not in mended.stderr
    assert "bundle" in mended.stderr


def test_other_targets_share_finished_stages(
    built: tuple[Path, subprocess.CompletedProcess[str]], checkpoint: Path, recipe: Path
) -> None:
    out, _ = built
    done = edgeforge(
        *("build", "--target", "laptop", "--model", checkpoint, "--recipe", recipe),
        *("--quantization", "Q8_0", "--out", out),
    )
    assert done.returncode == 0, done.stderr
    assert "convert" not in done.stderr
    assert (out / "tiny" / "laptop" / "model-Q8_0.gguf").is_file()
    assert (out / "tiny" / "jetson-orin-nano" / "model-Q4_K_M.gguf").is_file()


def test_a_killed_build_goes_on(checkpoint: Path, recipe: Path, tmp_path: Path) -> None:
    arguments = ("--target", "laptop", "--model", checkpoint, "--recipe", recipe, "--out", tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "toolchain", "build", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    stages = tmp_path / "tiny" / ".stages"
    deadline = time.monotonic() + 120
    while not list(stages.glob("convert-*/artifact.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = edgeforge("build", *arguments)
    assert done.returncode == 0, done.stderr
    assert "convert" not in done.stderr
    assert not list(tmp_path.rglob("*.partial*"))


def test_dry_run_and_plan_write_nothing(checkpoint: Path, tmp_path: Path) -> None:
    for arguments in (("build", "--dry-run"), ("plan",)):
        done = edgeforge(*arguments, "--target", "jetson", "--model", checkpoint, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Q4_K_M" in done.stdout
        assert list(tmp_path.iterdir()) == []


def test_auto_fails_clearly_when_no_candidate_is_good_enough(
    built: tuple[Path, subprocess.CompletedProcess[str]], checkpoint: Path, tmp_path: Path
) -> None:
    out, _ = built
    strict = tmp_path / "strict.yaml"
    strict.write_text(
        "export: {calibration_tokens: 1024}\n"
        "evaluate: {max_tokens: 512, context_tokens: 128}\n"
        "quality: {max_kld: 1.0e-12}\n"
    )
    done = edgeforge(
        *("build", "--target", "raspberry-pi-5", "--model", checkpoint),
        *("--recipe", strict, "--out", out),
    )
    assert done.returncode == 2
    assert "no candidate of raspberry-pi-5" in done.stderr
    assert "exceeds the budget" in done.stderr
    assert not (out / "tiny" / "raspberry-pi-5").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--target", "jetsom"), "did you mean 'jetson'"),
        (("--target", "laptop", "--model", "/no/such/folder"), "does not exist"),
        (("--target", "laptop", "--model", str(ROOT / "docs")), "config.json"),
        (("--target", "laptop", "--recipe", "exprot"), "did you mean 'export'"),
        (("--target", "laptop", "--quantization", "Q4KM"), "did you mean 'Q4_K_M'"),
    ],
)
def test_bad_input_is_one_clear_error(
    arguments: tuple[str, ...], says: str, checkpoint: Path, tmp_path: Path
) -> None:
    model = () if "--model" in arguments else ("--model", checkpoint)
    done = edgeforge("build", *arguments, *model, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list((tmp_path / "out").rglob("artifact.json"))


def test_unknown_verb_suggests() -> None:
    done = edgeforge("biuld")
    assert done.returncode == 2
    assert "did you mean 'build'" in done.stderr


@pytest.mark.real_model
@pytest.mark.skipif(not MODELS.is_dir(), reason="../shared/assets is absent")
def test_a_real_model_whose_widths_fall_back(tmp_path: Path) -> None:
    """stories260K: FFN width 172 is no multiple of 32."""
    done = edgeforge(
        *("build", "--target", "gpu-server", "--model", MODELS / "stories260K-hf"),
        *("--out", tmp_path, "--quantization", "Q4_K_M", "--json"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["passed"] is True
    assert result["model_file"]["fallbacks"]
    assert "WARNING" in done.stderr
    assert "row length 172 is no multiple of 256, nor of 32" in done.stderr
