"""`edgeforge doctor` on this machine's real environment, and what it finds when one is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtimes import environment
from runtimes.environment import Runtime
from runtimes.host import read_host
from runtimes.lockfile import Pin
from toolchain.commands import doctor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return doctor.examine(ROOT)


def test_json_of_the_real_command() -> None:
    command = [sys.executable, "-m", "toolchain", "doctor", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    answer = json.loads(done.stdout)
    assert done.returncode == (0 if answer["can_build"] else 1)
    assert answer["packages"]["llama-cpp-python"] == environment.installed_version(
        "llama-cpp-python"
    )
    assert answer["host"]["memory_total_bytes"] == read_host().memory_total_bytes
    assert {tool["name"] for tool in answer["tools"]} == set(environment.TOOLS)


def test_this_environment_can_build(report: dict[str, Any]) -> None:
    """The tests run in what set-up made, so nothing that blocks a build may be found."""
    assert [p for p in report["problems"] if p["blocks_build"]] == []
    assert report["can_build"] is True
    assert (Path(report["converter"]) / "convert_hf_to_gguf.py").is_file()
    assert doctor.as_text(report).endswith("a build can run")


def test_every_problem_has_a_mend(report: dict[str, Any]) -> None:
    assert all(problem["mend"] for problem in report["problems"])
    absent = [tool["name"] for tool in report["tools"] if tool["path"] is None]
    told = " ".join(problem["what"] for problem in report["problems"])
    assert all(f"no {name} " in told for name in absent)


def test_the_runtime_says_what_it_was_built_for() -> None:
    """llama.cpp's word against the kernel's: a native build uses no more than the CPU has."""
    runtime = environment.probe_runtime()
    assert runtime.fault is None
    assert runtime.system_info and "CPU" in runtime.system_info
    assert runtime.instructions
    assert set(runtime.instructions) <= set(read_host().instructions)
    assert environment.runtime_problems(runtime, read_host().instructions) == []


def test_a_runtime_for_another_cpu_is_found() -> None:
    runtime = Runtime("1.0", "CPU : AVX2 = 1 |", ("avx2",), None)
    (problem,) = environment.runtime_problems(runtime, ("neon",))
    assert problem.blocks_build and "avx2" in problem.what
    assert problem.mend == "make clean setup"


def test_a_runtime_that_does_not_load_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_PROBE", "import os; os.abort()")
    (problem,) = environment.runtime_problems(environment.probe_runtime(), ())
    assert problem.blocks_build and "signal 6" in problem.what


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("pyyaml", "0.1", "the lock has 0.1"),
        ("no-such-package", "1.0", "is not installed"),
    ],
)
def test_a_wrong_package_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, version: str, expected: str
) -> None:
    pin = Pin(name, version, "", frozenset(), "")
    other = Pin("windows-only", "1.0", "sys_platform == 'nowhere'", frozenset(), "")
    monkeypatch.setattr(environment, "read_lock", lambda: [pin, other])
    (problem,) = environment.wrong_packages()
    assert expected in problem.what
    assert (problem.mend, problem.blocks_build) == ("make setup", True)


def test_a_missing_converter_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (problem,) = environment.converter_problems()
    assert problem.blocks_build and problem.mend == "make setup"


def test_a_problem_shows_in_the_text(report: dict[str, Any]) -> None:
    problem = {"what": "torch is missing", "mend": "make setup", "blocks_build": True}
    text = doctor.as_text({**report, "problems": [problem], "can_build": False})
    assert "error: torch is missing\n  hint: make setup\na build cannot run yet" in text


def test_gpu_and_jetson_lines(report: dict[str, Any]) -> None:
    gpu = {
        "name": "NVIDIA H100 80GB HBM3",
        "memory_total_bytes": 81559 << 20,
        "driver_version": "550.54.15",
        "compute_capability": "9.0",
    }
    jetson = {"model": "Orin Nano", "l4t_release": "R36.4.3", "power_mode": "15W"}
    text = doctor.as_text({**report, "host": {**report["host"], "gpu": gpu, "jetson": jetson}})
    assert "NVIDIA H100 80GB HBM3, 85.5 GB, driver 550.54.15, compute 9.0" in text
    assert "Orin Nano, R36.4.3, power mode 15W" in text


def test_importing_the_command_is_cheap() -> None:
    code = (
        "import sys, toolchain.commands.doctor; "
        "sys.exit(bool({'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)))"
    )
    assert subprocess.call([sys.executable, "-c", code], cwd=ROOT) == 0
