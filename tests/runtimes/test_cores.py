"""Free cores and foreign load, on the machine at hand and on folders of another."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from runtimes.cores import LoadWatch, free_cores, pin

linux_only = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="pinning is a call of Linux"
)


def busy(monkeypatch: pytest.MonkeyPatch, percents: list[float]) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda **_: percents)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(len(percents))))


def siblings(root: Path, pairs: list[str]) -> Path:
    for core, pair in enumerate(pairs):
        folder = root / f"sys/devices/system/cpu/cpu{core}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(pair + "\n")
    return root


@linux_only
def test_the_idlest_come_first_and_busy_ones_not_at_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    busy(monkeypatch, [40.0, 90.0, 3.0, 10.0])
    assert free_cores(tmp_path) == (2, 3, 0)


@linux_only
def test_one_of_two_hyper_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    busy(monkeypatch, [5.0, 1.0, 2.0, 8.0])
    assert free_cores(siblings(tmp_path, ["0,2", "1,3", "0,2", "1,3"])) == (1, 2)


@linux_only
def test_a_machine_without_a_free_core_gives_its_idlest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    busy(monkeypatch, [99.0, 80.0])
    assert free_cores(tmp_path) == (1,)


@linux_only
def test_a_container_s_quota_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    busy(monkeypatch, [0.0] * 8)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("200000 100000\n")
    assert free_cores(tmp_path) == (0, 1)


@linux_only
def test_pinning_holds() -> None:
    core = min(os.sched_getaffinity(0))
    code = (
        f"from runtimes.cores import pin; import os; pin([{core}]); print(os.sched_getaffinity(0))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{{{core}}}"
    assert pin(os.sched_getaffinity(0))


def test_foreign_work_is_seen_and_one_s_own_is_not() -> None:
    spin = "import time; end = time.time() + 5\nwhile time.time() < end: pass"
    child = subprocess.Popen([sys.executable, "-c", spin])
    try:
        time.sleep(0.3)
        watch, own = LoadWatch(), LoadWatch()
        watch.start(os.getpid())
        own.start(child.pid)
        time.sleep(0.6)
        foreign, less = watch.stop(), own.stop()
    finally:
        child.kill()
        child.wait()
    # What the child took is foreign to this process and not to itself.
    assert foreign.foreign_cores > less.foreign_cores
