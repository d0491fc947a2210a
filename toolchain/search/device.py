"""Decode speed of a candidate on the device, over SSH: its file goes there, its engine times it.

The files are those of a smoke test without answers (`smoke_test.py --speed-only`): Python 3.8, the
standard library, whatever engine the device has. One candidate lies there at a time.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import write_json, write_text
from common.scratch import ScratchFolder
from runtimes.remote.faults import DeviceBusy
from runtimes.remote.ssh import SshOptions

if TYPE_CHECKING:
    from runtimes.remote.device_test import DeviceTest
    from targets.schema import Target
    from toolchain.search.candidates import Planned

MODEL = "model.gguf"
_WAIT_SEC, _LONGEST_WAIT_SEC, _TIMEOUT_SEC = 5.0, 1800.0, 1800.0


@dataclass(frozen=True)
class Device:
    """Where speeds are measured, as the smoke test's options name it."""

    host: str
    ssh: SshOptions = field(default_factory=SshOptions)
    python: str = "python3"
    remote_dir: str = "~/.cache/edgeforge/search"


@dataclass(frozen=True)
class OnDevice:
    """Medians of several repetitions, tokens/s; the engine and threads that were used there."""

    decode_tokens_per_sec: float
    prefill_tokens_per_sec: float
    peak_rss_bytes: int | None
    engine: str
    threads: int


def measure_on_device(
    device: Device, target: Target, planned: Planned, file: Path, threads: int | None, name: str
) -> OnDevice:
    """Copy the file there, if it is not there yet, and time it. Waits while the device is busy with
    another test. Raises `DeviceError` for whatever the device does or lacks."""
    from runtimes.remote.copy import copy_bundle
    from runtimes.remote.device_test import run_device_test
    from runtimes.remote.preflight import Needs, preflight, refuse
    from runtimes.remote.ssh import connect

    separate = target.accelerator.memory == "separate" and target.gpu_layers != 0
    needs = Needs(
        target=target.name,
        arch=target.processor.arch,
        format="gguf",
        memory_bytes=0 if separate else planned.memory_bytes,
    )
    words = ["--speed-only", *([] if threads is None else ["--threads", str(threads)])]
    folder = f"{device.remote_dir.rstrip('/')}/{name}-{target.name}"
    with ScratchFolder("search") as place:
        _lay_out(Path(place), target, planned, file)
        with connect(device.host, device.ssh) as connection:
            facts = preflight(connection, folder=device.remote_dir, python=device.python)
            refuse(facts, needs)
            until = time.monotonic() + _LONGEST_WAIT_SEC
            while True:
                try:
                    copy_bundle(connection, facts, Path(place), folder, python=device.python)
                    test = run_device_test(
                        connection,
                        facts,
                        folder,
                        python=device.python,
                        arguments=words,
                        timeout_sec=_TIMEOUT_SEC,
                    )
                    return _read(test)
                except DeviceBusy:
                    if time.monotonic() > until:
                        raise
                    time.sleep(_WAIT_SEC)


def _lay_out(place: Path, target: Target, planned: Planned, file: Path) -> None:
    """The folder that goes there: the model, what runs it, and their digests."""
    from toolchain.export.smoke_script import smoke_script
    from toolchain.trust.sums import write_sums

    try:
        (place / MODEL).hardlink_to(file)
    except OSError:  # another file system
        shutil.copyfile(file, place / MODEL)
    write_text(place / "smoke_test.py", smoke_script())
    write_json(place / "profile.json", _profile(target, planned))
    write_sums(place)


def _profile(target: Target, planned: Planned) -> Mapping[str, Any]:
    return {
        "schema": 1,
        "model": "candidate",
        "target": target.name,
        "model_file": MODEL,
        "threads": target.threads if isinstance(target.threads, int) else None,
        "cores": target.processor.cores,
        "context_length": planned.context_tokens,
        "kv_cache_type": planned.kv_cache_type,
        "gpu_layers": target.gpu_layers,
        "stop_texts": [],
        "thresholds": {},
    }


def _read(test: DeviceTest) -> OnDevice:
    speed = test.data["speed"]
    rss = next((c["value"] for c in test.data["checks"] if c["name"] == "peak_rss_bytes"), None)
    return OnDevice(
        decode_tokens_per_sec=float(speed["decode_tokens_per_sec"]["median"]),
        prefill_tokens_per_sec=float(speed["prefill_tokens_per_sec"]["median"]),
        peak_rss_bytes=rss,
        engine=f"{test.data['engine']['name']} {test.data['engine']['version']}",
        threads=int(test.data["threads"]["used"]),
    )
