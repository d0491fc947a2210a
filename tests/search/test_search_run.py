"""`edgeforge search` on a tiny model: measured, resumed, refused, killed, on a device."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT, edgeforge
from loopback_sshd import loopback_sshd, needs_sshd
from tiny_models import tiny_llama

from common.errors import UserError
from toolchain.job import BuildRequest
from toolchain.search.search import search
from toolchain.search.session import SearchRequest, Wanted
from toolchain.search.settings import HERE, PLANNED, Budget, Fidelity, Settings

CHOICES = ("--prune", "0", "--tensor-types", "ffn_down=mix,Q8_0", "--kld-tokens", "256")
CHOICES += ("--quantization", "Q4_K_M,Q5_K_M,Q8_0", "--max-kld", "0.5")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def out(checkpoint: Path) -> Path:
    """All studies of this module use each other's stages."""
    return checkpoint.parent / "build"


@pytest.fixture
def request_(checkpoint: Path, out: Path) -> SearchRequest:
    return SearchRequest(
        build=BuildRequest("laptop", str(checkpoint), out=out),
        settings=Settings("size", Budget(max_kld=0.5), PLANNED, Fidelity(64, 256)),
        wanted=Wanted(("Q4_K_M", "Q5_K_M", "Q8_0"), {"ffn_down": ("mix", "Q8_0")}, prune=(0.0,)),
        trials=3,
        study="size",
    )


def silent(_line: str) -> None:
    """Nobody listens."""


def command(checkpoint: Path, out: Path, *more: object) -> list[object]:
    return ["search", "--target", "laptop", "--model", checkpoint, "--out", out, *CHOICES, *more]


@pytest.fixture
def found(request_: SearchRequest) -> dict[str, Any]:
    """The study of this module; made by the test that comes first."""
    return dict(search(request_, silent).data)


def test_the_best_is_the_smallest_within_budget(found: dict[str, Any], out: Path) -> None:
    folder = out / "tiny" / "laptop-size"
    trials = found["trials"]
    assert len(trials) == 3 and len({r["key"] for r in trials}) == 3
    scored = [r for r in trials if r["figures"].get("kld") is not None]
    best = next(r for r in trials if r["trial"] == found["best"]["trial"])
    assert best["figures"]["size_bytes"] == min(r["figures"]["size_bytes"] for r in scored)
    assert best["figures"]["size_bytes"] == Path(found["best"]["file"]).stat().st_size
    assert best["trial"] in found["front"]
    for name in ("search.json", "recipe.yaml", "report.html", "report.zh-CN.md", "search.svg"):
        assert (folder / name).stat().st_size > 100
    assert json.loads((folder / "search.json").read_text("utf-8")) == found
    # Both texts are told, and the held-out figure is another one than that which ranked.
    texts = found["texts"]
    assert len({texts[name]["digest"] for name in texts}) == 3
    assert found["best"]["held_out"]["kld"] != best["figures"]["kld"]


def test_the_recipe_rebuilds_the_very_file(
    found: dict[str, Any], checkpoint: Path, out: Path, tmp_path: Path
) -> None:
    from toolchain.export.gguf.export import quantized_file
    from toolchain.job import settle

    folder, other = out / "tiny" / "laptop-size", tmp_path / "else"
    other.mkdir()
    for name in ("recipe.yaml", "calibration.txt"):
        shutil.copy(folder / name, other / name)
    # The slow stages are taken along: a recipe that asked for others would make its own.
    stages = tmp_path / "tiny" / ".stages"
    kept = [p for kind in ("convert-*", "imatrix-*") for p in (out / "tiny" / ".stages").glob(kind)]
    for path in kept:
        shutil.copytree(path, stages / path.name)
    request = BuildRequest(
        "laptop", str(checkpoint), str(tmp_path / "else" / "recipe.yaml"), out=tmp_path
    )
    job = settle(request)
    made = quantized_file(job, job.quantization, silent)
    assert sum(len(list(stages.glob(kind))) for kind in ("convert-*", "imatrix-*")) == len(kept)
    assert made.files[made.only(".gguf").name] == found["best"]["sha256"]


def test_a_finished_study_does_no_work_and_more_trials_go_on(
    found: dict[str, Any], request_: SearchRequest
) -> None:
    lines: list[str] = []
    more = search(dataclasses.replace(request_, trials=5), lines.append).data
    assert more["trials"][:3] == found["trials"] and len(more["trials"]) == 5
    assert any("3 trials are finished" in line for line in lines)
    again = search(dataclasses.replace(request_, trials=5), lines.append).data
    assert again["trials"] == more["trials"]


def test_a_space_that_is_exhausted_ends_early(request_: SearchRequest) -> None:
    lines: list[str] = []
    found = search(dataclasses.replace(request_, trials=40), lines.append).data
    assert found["space_size"] == 6
    assert len(found["trials"]) == len({r["key"] for r in found["trials"]}) <= 6
    assert "every point of the space was looked at" in lines


def test_two_workers_killed_and_started_again(checkpoint: Path, out: Path) -> None:
    words = command(checkpoint, out, "--objective", "size", "--study", "two", "--workers", 2)
    words += ["--trials", 5]
    database = out / "tiny" / "laptop-two" / "study.db"
    process = subprocess.Popen(
        [sys.executable, "-m", "toolchain", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 200
    while finished_trials(database) < 1 and time.monotonic() < until:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = finished_trials(database)
    assert before >= 1
    done = edgeforge(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert f"{before} trials are finished" in done.stderr
    keys = [r["key"] for r in json.loads(done.stdout)["trials"]]
    assert len(keys) >= 5
    assert len(set(keys)) >= len(keys) - 1  # the two may meet at one point


def finished_trials(database: Path) -> int:
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            rows = connection.execute("select count(*) from trials where state='COMPLETE'")
            return int(rows.fetchone()[0])
    except sqlite3.Error:
        return 0


def test_a_speed_is_measured_against_one_fixed_file(request_: SearchRequest) -> None:
    settings = Settings("decode", Budget(max_kld=0.5), HERE, Fidelity(64, 256))
    timed = dataclasses.replace(request_, settings=settings, trials=2, study="here")
    found = search(timed, silent).data
    speeds = [r["figures"].get("decode_tokens_per_sec") for r in found["trials"]]
    assert all(speed and speed > 0 for speed in speeds)
    assert all(r["timed"]["ratio"] > 0 for r in found["trials"])


def test_a_budget_that_nothing_meets_names_the_nearest(
    checkpoint: Path, out: Path, request_: SearchRequest
) -> None:
    settings = dataclasses.replace(request_.settings, budget=Budget(max_kld=1e-9, max_bytes=10**7))
    request = dataclasses.replace(request_, settings=settings, trials=2, study="never")
    with pytest.raises(UserError, match="none of 2 points keeps the budget") as error:
        search(request, silent)
    assert error.value.details[0].startswith("max_kld 1e-09: nothing was measured") or (
        "nearest" in error.value.details[0]
    )
    folder = out / "tiny" / "laptop-never"
    assert json.loads((folder / "search.json").read_text("utf-8"))["best"] is None
    assert not (folder / "recipe.yaml").exists() and (folder / "report.html").is_file()


def test_what_does_not_fit_is_pruned_before_it_is_made(request_: SearchRequest) -> None:
    tight = Budget(max_kld=0.5, max_memory_bytes=1000)
    settings = dataclasses.replace(request_.settings, budget=tight)
    request = dataclasses.replace(request_, settings=settings, trials=2, study="tight")
    with pytest.raises(UserError, match="keeps the budget") as error:
        search(request, silent)
    assert any(line.startswith("max_memory_bytes 1000: nearest") for line in error.value.details)


def test_another_objective_is_another_study(request_: SearchRequest) -> None:
    search(request_, silent)
    settings = dataclasses.replace(request_.settings, objective="kld")
    with pytest.raises(UserError, match="is of another search") as error:
        search(dataclasses.replace(request_, settings=settings), silent)
    assert "objective and budget" in str(error.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--host", "device", "--speed", "here"), "two places for speeds"),
        (("--min-context", 4096, "--context", "1024,2048"), "leaves none of"),
        (("--kv-cache", "q5_9"), "unknown KV-cache type 'q5_9'"),
        (("--tensor-types", "ffn_up=Q6_K"), "no group of tensors: 'ffn_up'"),
        (("--tensor-types", "ffn_down=Q66"), "unknown tensor type 'Q66'"),
        (("--tensor-types", "ffn_down"), "GROUP=TYPE"),
        (("--quantization", "Q4_X_M"), "unknown quantization 'Q4_X_M'"),
        (("--speed", "planned", "--threads", "1,2"), "threads change no figure"),
        (("--remote-dir", "x"), "without a device"),
        (("--prune", "0.123"), "--prune 0.123"),
        (("--recipe", "prune-lora", "--data", __file__), "--data has no use"),
        (("--study", "../x"), "is no name of a study"),
        (("--context", "12"), "too short"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(
    checkpoint: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[object, ...],
    words: str,
) -> None:
    from toolchain.cli import main

    given = ["search", "--target", "laptop", "--model", checkpoint, "--out", out, *more]
    assert main(list(map(str, given))) == 2
    assert words in capsys.readouterr().err


def test_dry_run_writes_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from toolchain.cli import main

    assert main([*map(str, command(checkpoint, tmp_path / "no")), "--dry-run"]) == 0
    assert "6 points" not in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@needs_sshd
def test_on_a_device_that_is_lost_in_between(checkpoint: Path, out: Path, tmp_path: Path) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("the target is x86_64")
    with loopback_sshd(tmp_path / "device") as server:
        device = ("--host", "device", "--ssh-config", server.config)
        device += ("--remote-python", sys.executable, "--kv-cache", "f16")
        words = command(checkpoint, out, "--study", "device", *device)
        done = edgeforge(*words, "--trials", 2, "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["speed"] == "device device"
        assert all(r["on_device"]["decode_tokens_per_sec"] > 0 for r in found["trials"])
    lost = edgeforge(*words, "--trials", 3)
    assert lost.returncode == 2 and "Traceback" not in lost.stderr
    assert "cannot be reached" in lost.stderr and "finished trials are kept" in lost.stderr
    database = out / "tiny" / "laptop-device" / "study.db"
    assert finished_trials(database) == 2
