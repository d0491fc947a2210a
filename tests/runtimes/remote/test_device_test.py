"""The test on the device: its words and result come back, and it never outlives the connection."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback_sshd import Server, needs_sshd
from small_bundle import small_bundle

from runtimes.remote import agent, call, device_test
from runtimes.remote.call import Cancelled
from runtimes.remote.copy import copy_bundle
from runtimes.remote.device_test import DeviceTest, run_device_test
from runtimes.remote.faults import DeviceError
from runtimes.remote.preflight import preflight
from runtimes.remote.ssh import Connection

pytestmark = needs_sshd

RESULT = {"verdict": "passed", "checks": [], "machine": {}, "engine": {}, "threads": {}}
WRITES = f"""
import json, os, sys
print("a table: 表", flush=True)
print("a warning", file=sys.stderr)
place = sys.argv[sys.argv.index("--json") + 1]
open(place, "w").write(json.dumps({{**{RESULT!r}, "arguments": sys.argv[1:3], "cwd": os.getcwd()}}))
"""
# Starts helpers as engines do, in sessions of their own.
RUNS_LONG = """
import os, subprocess, sys, time
helper = "import signal, time; time.sleep(120)"
own = subprocess.Popen([sys.executable, "-c", helper], start_new_session=True)
subprocess.Popen(["sh", "-c", "sleep 121 & exec sleep 122"], start_new_session=True)
time.sleep(0.5)
print("pids", os.getpid(), own.pid, flush=True)
time.sleep(120)
"""
STUBBORN = RUNS_LONG.replace("time; ", "time; signal.signal(signal.SIGTERM, signal.SIG_IGN); ")


def run(
    device: Connection,
    folder: Path,
    *,
    timeout_sec: float = 60,
    show: Callable[[str], None] = lambda line: None,
    cancel: threading.Event | None = None,
) -> DeviceTest:
    facts = preflight(device, folder="bundles")
    place = f"bundles/{folder.name}"
    copy_bundle(device, facts, folder, place, python="python3")
    return run_device_test(
        device,
        facts,
        place,
        python="python3",
        arguments=["--threads", "2"],
        timeout_sec=timeout_sec,
        show=show,
        cancel=cancel or threading.Event(),
    )


def living(pids: list[int]) -> list[int]:
    """Those that run; ended ones that nobody has collected do not count."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        found += [pid] if state != "Z" else []
    return found


def sleepers() -> list[int]:
    said = subprocess.run(["ps", "-ewwo", "pid=,args="], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in said.splitlines() if "sleep 12" in line]


def wait_until_gone(pids: list[int], sec: float = 15) -> None:
    deadline = time.monotonic() + sec
    while living([*pids, *sleepers()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert living([*pids, *sleepers()]) == []


def pids_of(lines: list[str]) -> list[int]:
    line = next(line for line in lines if line.startswith("pids"))
    return [int(word) for word in line.split()[1:]]


def test_words_and_result_come_back(device: Connection, server: Server, tmp_path: Path) -> None:
    lines: list[str] = []
    found = run(device, small_bundle(tmp_path / "writes", WRITES), show=lines.append)
    assert found.table == "a table: 表\n" and sorted(lines) == ["a table: 表", "a warning"]
    assert found.data["arguments"] == ["--threads", "2"]
    assert found.data["cwd"] == str(server.home / "bundles" / "writes")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit('no engine: pip install it')", "code 1.*pip install it"),
        ("import sys; print('no engine', file=sys.stderr); sys.exit(2)", "device: no engine"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("import sys; open(sys.argv[-1], 'w').write('{}')", "cannot be read"),
    ],
)
def test_a_test_without_a_result(
    device: Connection, tmp_path: Path, code: str, reason: str
) -> None:
    with pytest.raises(DeviceError, match=reason) as caught:
        run(device, small_bundle(tmp_path / "broken", code))
    assert caught.value.place == "run"


def test_too_slow_is_stopped_with_all_that_it_started(device: Connection, tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(DeviceError, match="did not end within 2 s"):
        run(device, small_bundle(tmp_path / "slow", STUBBORN), timeout_sec=2, show=lines.append)
    assert living(pids_of(lines)) == [] and sleepers() == []


def test_what_a_finished_test_left_running_is_ended(device: Connection, tmp_path: Path) -> None:
    leaves = RUNS_LONG.rpartition("time.sleep(120)")[0] + WRITES
    lines: list[str] = []
    run(device, small_bundle(tmp_path / "leaves", leaves), show=lines.append)
    assert living(pids_of(lines)) == [] and sleepers() == []


def test_cancelling_ends_it_there(device: Connection, tmp_path: Path) -> None:
    cancel, lines = threading.Event(), []

    def at_first_word(line: str) -> None:
        lines.append(line)
        cancel.set()

    with pytest.raises(Cancelled):
        run(device, small_bundle(tmp_path / "c", RUNS_LONG), show=at_first_word, cancel=cancel)
    assert living(pids_of(lines)) == [] and sleepers() == []


def test_a_silent_network_ends_it_there(
    device: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "_BEAT_SEC", 1000)  # as if nothing came through any more
    monkeypatch.setattr(device_test, "SILENCE_SEC", 1.5)
    lines: list[str] = []
    with pytest.raises(DeviceError, match=r"was stopped there \(silence\)"):
        run(device, small_bundle(tmp_path / "silent", RUNS_LONG), show=lines.append)
    assert living(pids_of(lines)) == [] and sleepers() == []


def test_a_device_that_dies_in_the_middle(
    device: Connection, server: Server, tmp_path: Path
) -> None:
    lines: list[str] = []

    def dies(line: str) -> None:
        lines.append(line)
        server.kill_sessions()

    with pytest.raises(DeviceError, match="was lost while the smoke test ran"):
        run(device, small_bundle(tmp_path / "dies", RUNS_LONG), show=dies)
    wait_until_gone(pids_of(lines))


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_it_ends_when_this_side_ends(server: Server, tmp_path: Path, sign: int) -> None:
    folder = small_bundle(tmp_path / "ends", RUNS_LONG)
    code = (
        f"import sys\nfrom pathlib import Path\nsys.path[:0] = {sys.path!r}\n"
        "from runtimes.remote.ssh import SshOptions, connect\nfrom test_device_test import run\n"
        f"with connect('device', SshOptions(Path({str(server.config)!r}))) as device:\n"
        f"    run(device, Path({str(folder)!r}), show=lambda line: print(line, flush=True))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    pids = pids_of([process.stdout.readline().decode()])
    assert living(pids) == pids
    process.send_signal(sign)
    process.wait(timeout=20)
    process.stdout.close()
    wait_until_gone(pids, 0.5 if sign == signal.SIGINT else 15)


def test_the_agent_is_python_3_8() -> None:
    """As JetPack 5 ships it."""
    ast.parse(Path(agent.__file__).read_text("utf-8"), feature_version=(3, 8))


def test_two_tests_at_once_are_refused(device: Connection, tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "twice", RUNS_LONG)
    cancel, seen = threading.Event(), []

    def second(line: str) -> None:
        if seen:
            return
        seen.append(line)
        facts = preflight(device, folder="bundles")
        with pytest.raises(DeviceError, match="another smoke test is running"):
            run_device_test(device, facts, "bundles/twice", python="python3", timeout_sec=9)
        cancel.set()

    with pytest.raises(Cancelled):
        run(device, folder, show=second, cancel=cancel)
    assert seen and json.dumps(seen)
