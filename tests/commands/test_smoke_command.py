"""`edgeforge smoke` on a real bundle, and what it says when there is none."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from tiny_bundle import edit_first_prompt, make_bundle
from tiny_models import tiny_llama

from common.errors import UserError
from toolchain.commands import smoke
from toolchain.smoke import run_smoke
from toolchain.trust.sums import write_sums


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def out(checkpoint: Path) -> Path:
    out = checkpoint.parent / "build"
    make_bundle(checkpoint, out, proof=False)
    return out


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    smoke.add_arguments(parser)
    return parser.parse_args(given)


def test_it_proves_the_bundle_and_keeps_the_log(
    checkpoint: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--target", "laptop", "--model", str(checkpoint), "--out", str(out), "--quick"]
    assert smoke.run(arguments(*given)) == 0
    assert "smoke test passed" in capsys.readouterr().out
    log = out / "tiny" / "laptop" / "log"
    result = json.loads((log / "smoke.json").read_text("utf-8"))
    # The engine that recorded the answers, whatever else this machine has.
    assert (result["verdict"], result["engine"]["name"]) == ("passed", "llama-cpp-python")
    assert (log / "smoke.md").read_text("utf-8").startswith("# Smoke test: passed")
    assert "冒烟测试：通过" in (log / "smoke.zh-CN.md").read_text("utf-8")
    # Its own log must not make the bundle fail the next time.
    assert smoke.run(arguments(*given, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["checks"][0]["name"] == "digests"


def test_a_failed_check_is_exit_code_1(checkpoint: Path, out: Path) -> None:
    bundle = out / "tiny" / "laptop"
    before = {name: (bundle / name).read_bytes() for name in ("prompts.jsonl", "SHA256SUMS")}
    edit_first_prompt(bundle, expected="something else")
    try:
        result = run_smoke(bundle, quick=True)
        given = ["--target", "laptop", "--model", str(checkpoint), "--out", str(out), "--quick"]
        assert smoke.run(arguments(*given)) == 1
    finally:
        for name, data in before.items():
            (bundle / name).write_bytes(data)
    assert not result.passed and result.failed_checks() == ["equal_answers"]


def test_another_engine_is_used_when_asked_for(checkpoint: Path, out: Path) -> None:
    given = ["--target", "laptop", "--model", str(checkpoint), "--out", str(out), "--quick"]
    with pytest.raises(UserError, match="there is no engine 'vllm': choose one of auto, ollama"):
        smoke.run(arguments(*given, "--engine", "vllm"))


def test_without_a_bundle_it_says_how_to_build_one(checkpoint: Path, tmp_path: Path) -> None:
    given = ["--target", "laptop", "--model", str(checkpoint), "--out", str(tmp_path)]
    with pytest.raises(UserError, match=r"there is no bundle in .*laptop") as caught:
        smoke.run(arguments(*given))
    assert "make target=" in caught.value.mend
    assert list(tmp_path.iterdir()) == []


def test_a_test_that_cannot_run_says_why(out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "smoke_test.py").write_bytes((out / "tiny/laptop/smoke_test.py").read_bytes())
    with pytest.raises(UserError, match="SHA256SUMS"):
        run_smoke(folder)
    assert not (folder / "log").exists()
    write_sums(folder)
    (folder / "smoke_test.py").write_text("import time")
    with pytest.raises(UserError, match="is damaged") as caught:
        run_smoke(folder)
    assert "smoke_test.py is damaged" in str(caught.value)
    (folder / "smoke_test.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    write_sums(folder)
    with pytest.raises(UserError, match="signal 11"):
        run_smoke(folder)
    (folder / "smoke_test.py").write_text("import time; time.sleep(60)")
    write_sums(folder)
    with pytest.raises(UserError, match="did not end within 1 s"):
        run_smoke(folder, timeout_sec=1)


def test_thread_counts_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments("--target", "laptop", "--threads", "0")
    assert "no whole number above 0" in capsys.readouterr().err
