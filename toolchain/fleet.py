"""Many devices at once: a fleet file, bounded parallelism, one table.

    devices:
      - host: user@orin
        target: jetson
        tags: [lab]
      - host: pi
        target: raspberry-pi-5
        model: models/small        # default: --model
        ssh_options: [Port=2222]

One device's failure does not stop the others. Devices whose bundles are missing are refused before
any is called.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from common.errors import UserError, near_names
from common.strict import Strict, parse, read_yaml
from runtimes.remote.call import Cancelled
from runtimes.remote.ssh import SshOptions, check_host
from toolchain.device import (
    REMOTE_DIR,
    TIMEOUT_SEC,
    DeviceJob,
    Outcome,
    require_bundle,
    smoke_on_device,
)
from toolchain.smoke import failed_checks

if TYPE_CHECKING:
    import argparse

DEFAULT_JOBS = 4


class FleetDevice(Strict):
    """One device. Paths are relative to the fleet file's folder. `bundle` names a finished bundle's
    folder, instead of `model`."""

    host: str = Field(min_length=1)
    target: str = Field(min_length=1)
    name: str | None = Field(default=None, min_length=1)
    tags: tuple[str, ...] = ()
    model: str | None = None
    bundle: Path | None = None
    python: str = "python3"
    remote_dir: str = REMOTE_DIR
    ssh_config: Path | None = None
    ssh_options: tuple[str, ...] = ()
    rsync: bool = True
    timeout_sec: float = Field(default=TIMEOUT_SEC, gt=0)

    @model_validator(mode="after")
    def _is_consistent(self) -> FleetDevice:
        if self.model is not None and self.bundle is not None:
            raise ValueError("give model or bundle, not both")
        return self


class Fleet(Strict):
    """A fleet file."""

    devices: tuple[FleetDevice, ...]

    @model_validator(mode="after")
    def _names_differ(self) -> Fleet:
        names = [device.name or device.host for device in self.devices]
        if not names:
            raise ValueError("devices is empty")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"named twice: {', '.join(twice)}; give each a `name` of its own")
        return self


def read_fleet(path: Path, tag: str | None = None) -> list[FleetDevice]:
    """The devices of a fleet file that carry the tag. One `UserError` names all faults."""
    fleet = parse(Fleet, read_yaml(path), f"fleet file {path}")
    folder = path.resolve().parent
    faults, devices = [], []
    for number, device in enumerate(fleet.devices):
        try:
            check_host(device.host)
        except UserError as error:
            faults.append(f"devices.{number}.host: {error.problem}; {error.mend}")
        devices.append(device.model_copy(update=_resolved(device, folder)))
    if faults:
        raise UserError(
            f"fleet file {path} has faults", "mend the hosts named above", details=faults
        )
    chosen = [device for device in devices if tag is None or tag in device.tags]
    if not chosen:
        known = {known for device in devices for known in device.tags}
        raise UserError(f"no device of {path} has the tag '{tag}'", near_names(str(tag), known))
    return chosen


def fleet_jobs(devices: Sequence[FleetDevice], args: argparse.Namespace) -> list[DeviceJob]:
    """What to do for each device; `args` are the verb's. Raises `UserError` that lists every bundle
    that is missing."""
    from toolchain.commands.smoke import smoke_arguments

    jobs, faults = [], []
    for device in devices:
        try:
            jobs.append(_job(device, args, smoke_arguments(args)))
        except UserError as error:
            faults.append(f"{device.name or device.host}: {error.problem}; {error.mend}")
    if faults:
        raise UserError("not every device has its bundle", "build what is missing", details=faults)
    return jobs


def run_fleet(jobs: Sequence[DeviceJob], parallel: int = DEFAULT_JOBS) -> list[Outcome]:
    """Test on all devices, at most `parallel` at once; outcomes in the order of the jobs.

    Ctrl-C ends the tests on every device before it is passed on.
    """
    cancel = threading.Event()
    found: list[Outcome | None] = [None] * len(jobs)

    def one(index: int) -> None:
        job = jobs[index]
        if cancel.is_set():
            return
        with contextlib.suppress(Cancelled):
            found[index] = smoke_on_device(job, say=_prefixed(job.name), cancel=cancel)
            _prefixed(job.name)(_ended(found[index]))

    with ThreadPoolExecutor(max_workers=min(parallel, len(jobs))) as pool:
        waiting = [pool.submit(one, index) for index in range(len(jobs))]
        try:
            for future in waiting:
                future.result()
        except BaseException:
            cancel.set()
            raise
    return [outcome for outcome in found if outcome is not None]


def _resolved(device: FleetDevice, folder: Path) -> dict[str, Any]:
    """Paths of the file as seen from its folder; a model that is no folder there is a hub id."""
    found: dict[str, Any] = {}
    for name in ("bundle", "ssh_config"):
        if (path := getattr(device, name)) is not None:
            found[name] = folder / path.expanduser()
    if device.model is not None and (folder / device.model).is_dir():
        found["model"] = str(folder / device.model)
    if device.target.endswith((".yaml", ".yml")):
        found["target"] = str(folder / device.target)
    return found


def _job(device: FleetDevice, args: argparse.Namespace, arguments: tuple[str, ...]) -> DeviceJob:
    from argparse import Namespace

    from targets.registry import load_target
    from toolchain.options import bundle_folder

    target = load_target(device.target)
    own = {"target": device.target, "model": device.model or args.model}
    bundle = device.bundle or bundle_folder(Namespace(**{**vars(args), **own}))
    require_bundle(bundle, target)
    return DeviceJob(
        host=device.host,
        target=target,
        bundle=bundle,
        label=device.name or "",
        ssh=SshOptions(device.ssh_config, device.ssh_options),
        python=device.python,
        remote_dir=device.remote_dir,
        copy=not args.no_copy,
        rsync=device.rsync and not args.no_rsync,
        arguments=arguments,
        timeout_sec=device.timeout_sec,
    )


def _prefixed(name: str) -> Any:
    return lambda line: print(f"[{name}] {line}", file=sys.stderr)


def _ended(outcome: Outcome | None) -> str:
    """The verdict and the reason, where it is none to be glad of."""
    assert outcome is not None
    failed = failed_checks(outcome.test.data) if outcome.test else []
    reason = outcome.error.problem if outcome.error else ", ".join(failed)
    return outcome.verdict + (f": {reason}" if reason else "")


def bundles_of(outcomes: Iterable[Outcome]) -> list[Path]:
    """Every bundle that was tested, once."""
    return list(dict.fromkeys(outcome.job.bundle for outcome in outcomes))
