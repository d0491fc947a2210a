"""`build_llama_cpp_jetson.sh --dry-run` on made-up devices: what it finds, decides and refuses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from runtimes.remote.jetson import MODULES, cuda_architecture

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "build_llama_cpp_jetson.sh"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")


def device(
    folder: Path, board: str = "NVIDIA Jetson AGX Orin", l4t: str = "R36 (release), REVISION: 4.3",
    *, memory_mb: int = 20_000, zram_mb: int = 0, swap_mb: int = 0, libraries: str = "aarch64",
) -> Path:  # fmt: skip
    files = {
        "proc/device-tree/model": board + "\0",
        "etc/nv_tegra_release": f"# {l4t}, GCID: 1, BOARD: generic\n",
        "proc/meminfo": f"MemAvailable: {memory_mb * 1024} kB\n"
        f"SwapFree: {(swap_mb + zram_mb) * 1024} kB\n",
        "proc/swaps": f"Filename Type Size\n/dev/zram0 partition {zram_mb * 1024}\n",
        "usr/local/cuda/version.json": '{"cuda": {"name": "SDK", "version": "12.6.11"}}',
        "usr/local/cuda/bin/nvcc": "#!/bin/sh\n",
        f"usr/local/cuda/targets/{libraries}-linux/keep": "",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "usr/local/cuda/bin/nvcc").chmod(0o755)
    return folder


def dry_run(root: Path, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), "--dry-run", "--prefix", str(root / "prefix"), *options],
        env={**os.environ, "EDGEFORGE_ROOT": str(root), "HOME": str(root), **more},
        capture_output=True,
        text=True,
    )


def test_the_pin_is_the_locks() -> None:
    text = SCRIPT.read_text()
    pin, digest = re.findall(r"^(?:PIN|SHA256)=(\w[\w.]*)$", text, re.MULTILINE)
    lock = (ROOT / "requirements.lock").read_text()
    assert f"llama-cpp-python=={pin} \\\n    --hash=sha256:{digest}" in lock


@pytest.mark.parametrize(("word", "number"), MODULES)
def test_the_modules_are_those_of_the_preflight(tmp_path: Path, word: str, number: int) -> None:
    done = dry_run(device(tmp_path, f"NVIDIA Jetson {word} Developer Kit"))
    assert done.returncode == 0, done.stderr
    assert f"-DCMAKE_CUDA_ARCHITECTURES={number}" in done.stdout
    assert cuda_architecture(f"NVIDIA Jetson {word} Developer Kit") == number
    assert not (tmp_path / "prefix").exists()  # nothing was done


def test_an_orin_nano_is_an_orin() -> None:
    assert cuda_architecture("NVIDIA Jetson Orin Nano Developer Kit") == 87
    assert cuda_architecture("Raspberry Pi 5 Model B Rev 1.0") is None


def test_jobs_follow_memory_and_cores(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    for memory, swap, zram, jobs in (
        (64_000, 0, 0, cores),
        (1_800, 0, 0, 1),
        (1_000, 1_600, 0, 1),  # swap on disk counts half
    ):
        root = device(tmp_path / str(memory), memory_mb=memory, swap_mb=swap, zram_mb=zram)
        done = dry_run(root)
        assert f"--parallel {jobs}" in done.stdout, (done.stdout, done.stderr)
    small = dry_run(device(tmp_path / "small", memory_mb=1_000, zram_mb=8_000))  # zram is memory
    assert small.returncode == 2 and "not enough memory to compile" in small.stderr
    assert "sudo fallocate" in small.stderr


def test_what_it_refuses(tmp_path: Path) -> None:
    for number, (change, words) in enumerate(
        (
            ({"libraries": "sbsa"}, "Arm servers (sbsa)"),
            ({"libraries": "x86_64"}, "a desktop's toolkit"),
            ({"board": "NVIDIA Jetson Unheard"}, "is not known"),
        )
    ):
        done = dry_run(device(tmp_path / str(number), **change))  # type: ignore[arg-type]
        assert done.returncode == 2 and words in done.stderr and "hint: " in done.stderr
    bare = device(tmp_path / "bare")
    (bare / "usr/local/cuda/bin/nvcc").unlink()
    assert "no CUDA toolkit" in dry_run(bare).stderr
    assert "this is no Jetson" in dry_run(tmp_path / "nothing").stderr
    assert "unknown option" in dry_run(bare, "--fast").stderr


def test_known_traps_are_named(tmp_path: Path) -> None:
    said = dry_run(device(tmp_path / "a", l4t="R36 (release), REVISION: 4.7")).stderr
    assert "NvMapMemAllocInternalTagged" in said and "no swap on disk" in said
    assert "NvMap" not in dry_run(device(tmp_path / "b")).stderr
    stray = tmp_path / "stray"
    stray.mkdir()
    (stray / "libcudart.so.12").touch()
    said = dry_run(device(tmp_path / "c"), LD_LIBRARY_PATH=str(stray)).stderr
    assert "it would win over L4T's" in said


def test_a_finished_build_is_kept(tmp_path: Path) -> None:
    root = device(tmp_path)
    pin, digest = re.findall(r"^(?:PIN|SHA256)=(\w[\w.]*)$", SCRIPT.read_text(), re.MULTILINE)
    (root / "prefix").mkdir()
    (root / "prefix" / ".built").write_text(f"{pin} {digest} cuda-12.6.11 sm-87\n")
    done = dry_run(root)
    assert done.returncode == 0 and "llama.cpp is there" in done.stdout
    assert "cmake" not in done.stdout


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck on this machine")
def test_the_scripts_are_clean() -> None:
    scripts = [SCRIPT, SCRIPT.with_name("cross_build_aarch64.sh")]
    subprocess.run(["shellcheck", *map(str, scripts)], check=True)
