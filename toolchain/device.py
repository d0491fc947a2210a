"""One device over SSH: look at it, copy the bundle, run its smoke test there, keep what it found.

    outcome = smoke_on_device(DeviceJob("user@orin", load_target("jetson"), bundle))

What the device said and did goes into the bundle's `log/devices/<host>/`: `device.json` always,
`smoke.json` and `smoke.md` when the test ran to its end. A test that did not leaves a record that
says what was not measured, and no figures of an earlier run.
"""

from __future__ import annotations

import datetime
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.damage import told_as_damage
from common.errors import UserError
from common.files import read_object, write_json
from common.folders import remove_folder
from runtimes.remote.faults import DeviceError
from runtimes.remote.ssh import SshOptions

if TYPE_CHECKING:
    from runtimes.remote.copy import Copied
    from runtimes.remote.device_test import DeviceTest
    from runtimes.remote.preflight import DeviceFacts, Needs
    from targets.schema import Target

REMOTE_DIR = "~/.cache/edgeforge/bundles"
DEVICES_FOLDER, DEVICE_FILE = "devices", "device.json"
TIMEOUT_SEC = 3600.0
STEPS = ("connect", "check", "copy", "run")
PASSED, FAILED, NOT_TESTED = "passed", "failed", "not tested"
Say = Callable[[str], None]


@dataclass(frozen=True)
class DeviceJob:
    """What to test, and where. `label` names the device in tables and in `log/devices/`."""

    host: str
    target: Target
    bundle: Path
    label: str = ""
    ssh: SshOptions = field(default_factory=SshOptions)
    python: str = "python3"
    remote_dir: str = REMOTE_DIR
    copy: bool = True
    rsync: bool = True
    arguments: tuple[str, ...] = ()
    timeout_sec: float = TIMEOUT_SEC

    @property
    def name(self) -> str:
        """The label, or the host where there is none."""
        return self.label or self.host

    @property
    def remote_folder(self) -> str:
        """The bundle's own folder on the device: <remote-dir>/<model>-<target>."""
        return f"{self.remote_dir.rstrip('/')}/{self.bundle.parent.name}-{self.bundle.name}"

    @property
    def log(self) -> Path:
        """Where its results go on this side."""
        plain = re.sub(r"^\.+|[^\w.@-]+", "_", self.name)
        return self.bundle / "log" / DEVICES_FOLDER / plain


@dataclass
class Outcome:
    """How far it came, and what is known. `error` is what ended it early."""

    job: DeviceJob
    sec: dict[str, float] = field(default_factory=dict)
    facts: DeviceFacts | None = None
    advice: tuple[str, ...] = ()
    copied: Copied | None = None
    test: DeviceTest | None = None
    error: UserError | None = None

    @property
    def verdict(self) -> str:
        """`passed`, `failed`, or `not tested`."""
        return NOT_TESTED if self.test is None else str(self.test.data["verdict"])

    def as_json(self) -> dict[str, Any]:
        """`device.json`."""
        error = self.error
        return {
            "device": self.job.name,
            "host": self.job.host,
            "target": self.job.target.name,
            "bundle": str(self.job.bundle),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "verdict": self.verdict,
            "sec": {step: round(sec, 3) for step, sec in self.sec.items()},
            "test_sec": round(self.test.sec, 3) if self.test else None,
            "facts": self.facts.as_json() if self.facts else None,
            "advice": list(self.advice),
            "copied": self.copied.as_json() if self.copied else None,
            "error": {"problem": error.problem, "mend": error.mend} if error else None,
            "not_measured": [] if self.test else not_measured(self.job.bundle),
            "checks": self.test.data["checks"] if self.test else [],
        }


def require_bundle(bundle: Path, target: Target) -> None:
    """Raise `UserError` when there is no bundle, or one of another target."""
    from toolchain.smoke import SMOKE_TEST

    if not (bundle / SMOKE_TEST).is_file() or not (bundle / "SHA256SUMS").is_file():
        raise UserError(
            f"there is no bundle in {bundle}", "build it first: make target=… (edgeforge build)"
        )
    made_for = read_object(bundle / "profile.json").get("target")
    if made_for != target.name:
        raise UserError(
            f"the bundle in {bundle} was made for {made_for}, not for {target.name}",
            f"edgeforge build --target {target.name}",
        )


def smoke_on_device(
    job: DeviceJob,
    say: Say = lambda line: print(line, file=sys.stderr),
    show: Say = lambda line: None,
    cancel: threading.Event | None = None,
) -> Outcome:
    """Test the bundle on the device and write `log/devices/<host>/`. `show` gets what the test
    prints, as it comes. Never raises for what the device does or lacks: that is in the outcome's
    `error`."""
    outcome = Outcome(job)
    try:
        _steps(outcome, say, show, cancel or threading.Event())
    except DeviceError as error:
        outcome.error = error
    keep(outcome)
    return outcome


def needs_of(bundle: Path) -> Needs:
    """What the bundle asks of a device, from its manifest."""
    from runtimes.remote.preflight import Needs

    manifest = read_object(bundle / "manifest.json")
    with told_as_damage(bundle / "manifest.json", "build the bundle again"):
        target, plan = manifest["target"], manifest["plan"]
        separate = target["accelerator"]["memory"] == "separate" and target["gpu_layers"] != 0
        memory = manifest["model_file"]["size_bytes"]
        memory += sum(plan.get(key) or 0 for key in ("kv_cache_bytes", "compute_bytes"))
        return Needs(
            target=target["name"],
            arch=target["processor"]["arch"],
            format="onnx" if manifest.get("runtime") == "onnxruntime" else "gguf",
            memory_bytes=0 if separate else int(memory),
        )


def not_measured(bundle: Path) -> list[str]:
    """Names of the checks that a finished test has: those of the build's own."""
    path = bundle / "log" / "smoke.json"
    if not path.is_file():
        return []
    with told_as_damage(path, "test the bundle again"):
        return [str(check["name"]) for check in read_object(path)["checks"]]


def keep(outcome: Outcome) -> None:
    """Write the device's folder in the bundle's log, in place of an earlier run's."""
    from toolchain.smoke import keep_result

    log = outcome.job.log
    remove_folder(log)
    log.mkdir(parents=True)
    write_json(log / DEVICE_FILE, outcome.as_json())
    if outcome.test is not None:
        keep_result(log, outcome.test.data)


def _steps(outcome: Outcome, say: Say, show: Say, cancel: threading.Event) -> None:
    from runtimes.remote.copy import copy_bundle
    from runtimes.remote.device_test import run_device_test
    from runtimes.remote.preflight import advice, preflight, refuse
    from runtimes.remote.ssh import connect

    job, clock = outcome.job, _Clock(outcome.sec)
    say(f"connect to {job.host} …")
    with connect(job.host, job.ssh) as device:
        clock.lap("connect")
        outcome.facts = facts = preflight(device, folder=job.remote_dir, python=job.python)
        outcome.advice = tuple(advice(facts))
        clock.lap("check")
        for line in (summary(outcome.facts.as_json()), *(f"advice: {a}" for a in outcome.advice)):
            say(line)
        refuse(facts, needs_of(job.bundle))
        if job.copy:
            outcome.copied = copy_bundle(
                device,
                facts,
                job.bundle,
                job.remote_folder,
                python=job.python,
                rsync=job.rsync,
                cancel=cancel,
            )
            clock.lap("copy")
            say(_copied_line(outcome.copied))
        say("smoke test …")
        outcome.test = run_device_test(
            device,
            facts,
            job.remote_folder,
            python=job.python,
            arguments=job.arguments,
            timeout_sec=job.timeout_sec,
            show=show,
            cancel=cancel,
        )
        clock.lap("run")


def summary(facts: Mapping[str, Any]) -> str:
    """The device in one line."""
    engines = ", ".join(f"{name} {version}" for name, version in facts["engines"].items())
    jetson = facts["jetson"] or {}
    parts = [
        jetson.get("board") or facts["system"],
        facts["arch"],
        f"{facts['cores']} cores" if facts["cores"] else "",
        _gigabytes(facts, "memory_available_bytes", "memory_total_bytes"),
        f"L4T {jetson['l4t']}" if jetson.get("l4t") else "",
        f"CUDA {jetson['cuda']}" if jetson.get("cuda") else "",
        f"power mode {jetson['power_mode']}" if jetson.get("power_mode") else "",
        f"Python {facts['python_version']}" if facts["python_version"] else "no Python",
        engines or "no engine",
    ]
    return "; ".join(part for part in parts if part)


def _gigabytes(facts: Mapping[str, Any], free: str, total: str) -> str:
    if not facts[free] or not facts[total]:
        return ""
    return f"{facts[free] / 1e9:.1f} of {facts[total] / 1e9:.1f} GB memory free"


def _copied_line(copied: Copied) -> str:
    if not copied.files:
        return "nothing to copy: the device has this bundle"
    return (
        f"copied {copied.files} files, {copied.copied_bytes} bytes in {copied.sec:.1f} s "
        f"({copied.way}) to {copied.folder}"
    )


class _Clock:
    """Seconds of each step, as they end."""

    def __init__(self, sec: dict[str, float]) -> None:
        self._sec, self._last = sec, time.monotonic()

    def lap(self, step: str) -> None:
        now = time.monotonic()
        self._sec[step], self._last = now - self._last, now
