"""`edgeforge smoke`: the smoke test again, on a finished bundle: here, on a device, on a fleet."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from toolchain.options import MAKE_VARIABLES, add_options, bundle_folder, count

if TYPE_CHECKING:
    from toolchain.device import DeviceJob, Outcome

HELP = "run the smoke test of a finished bundle, here or on devices over SSH"
EXAMPLES = (
    "edgeforge smoke --target laptop",
    "edgeforge smoke --target jetson --model PATH --json",
    "edgeforge smoke --target jetson --host user@orin",
    "edgeforge smoke --fleet fleet.yaml --tag lab --jobs 8",
    "edgeforge smoke --target laptop --engine llama-server",
)

_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    add_options(parser, *MAKE_VARIABLES, "json", "dry_run", optional=("target",))
    parser.add_argument(
        "--threads", type=count, metavar="N", help="threads (default: the best count found)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one repetition of each figure, no thread sweep"
    )
    parser.add_argument(
        "--engine",
        metavar="NAME",
        help="ollama, llama-server, … (smoke_test.py --help lists them), or auto: the first that "
        "works, as on a device (default: the engine that recorded the answers)",
    )
    remote = parser.add_argument_group("on devices (docs/devices.md)")
    remote.add_argument("--fleet", type=Path, metavar="FILE", help="test on the devices of a file")
    remote.add_argument("--tag", metavar="TAG", help="only devices of the fleet with this tag")
    remote.add_argument("--jobs", type=count, metavar="N", help="devices at once (default: 4)")
    remote.add_argument(
        "--remote-dir", metavar="DIR", help="where bundles go (default: ~/.cache/edgeforge/bundles)"
    )
    remote.add_argument(
        "--remote-python", metavar="PATH", help="Python to use there (default: python3)"
    )
    remote.add_argument(
        "--ssh-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option for ssh, such as Port=2222; can be repeated",
    )
    remote.add_argument("--ssh-config", type=Path, metavar="FILE", help="ssh's config (ssh -F)")
    remote.add_argument(
        "--timeout", type=count, metavar="SEC", help="longest test on a device (default: 3600)"
    )
    remote.add_argument("--no-rsync", action="store_true", help="copy through ssh alone")
    remote.add_argument("--no-copy", action="store_true", help="test what lies on the device")


def run(args: argparse.Namespace) -> int:
    """0 when every check passed, 1 when one failed or a device of a fleet could not be tested."""
    if args.fleet:
        return _fleet(args)
    if not args.target:
        raise UserError(
            "no target is named", "--target NAME (edgeforge targets list), or --fleet FILE"
        )
    for name in ("tag", "jobs"):
        if getattr(args, name):
            raise UserError(f"--{name} is for a fleet", "name its file: --fleet FILE")
    return _device(args) if args.host else _here(args)


def smoke_arguments(args: argparse.Namespace) -> tuple[str, ...]:
    """What goes to `smoke_test.py`, here and there."""
    threads = [] if args.threads is None else ["--threads", str(args.threads)]
    engine = [] if args.engine is None else ["--engine", args.engine]
    return (*threads, *engine, *(["--quick"] if args.quick else []))


def _here(args: argparse.Namespace) -> int:
    from toolchain.smoke import SMOKE_TEST, run_smoke
    from toolchain.trust.sums import LOG_FOLDER

    bundle = bundle_folder(args)
    if args.dry_run:
        print(
            f"would run {bundle / SMOKE_TEST} in a fresh process and write {bundle / LOG_FOLDER}/"
        )
        return 0
    result = run_smoke(bundle, threads=args.threads, quick=args.quick, engine=args.engine)
    _renew_report(bundle)
    if args.json:
        print(json.dumps(result.data, indent=2, ensure_ascii=False))
    else:
        print(result.table, end="")
    return 0 if result.passed else _FAILED


def _device(args: argparse.Namespace) -> int:
    from toolchain.device import smoke_on_device
    from toolchain.report.devices import write_devices

    job = device_job(args)
    if args.dry_run:
        return _say_what([job])
    show = (lambda line: None) if args.json else print
    outcome = smoke_on_device(job, show=show)
    write_devices(job.bundle)
    _renew_report(job.bundle)
    if outcome.error is not None:
        print(_not_measured(outcome), file=sys.stderr)
        raise outcome.error
    if args.json:
        _print_json(outcome.as_json())
    return 0 if outcome.verdict == "passed" else _FAILED


def device_job(args: argparse.Namespace) -> DeviceJob:
    """The job that the options name. Raises `UserError` before anything is called."""
    from runtimes.remote.ssh import SshOptions, check_host
    from targets.registry import load_target
    from toolchain.device import REMOTE_DIR, TIMEOUT_SEC, DeviceJob, require_bundle

    check_host(args.host)
    target, bundle = load_target(args.target), bundle_folder(args)
    require_bundle(bundle, target)
    return DeviceJob(
        host=args.host,
        target=target,
        bundle=bundle,
        ssh=SshOptions(args.ssh_config, tuple(args.ssh_option)),
        python=args.remote_python or "python3",
        remote_dir=args.remote_dir or REMOTE_DIR,
        copy=not args.no_copy,
        rsync=not args.no_rsync,
        arguments=smoke_arguments(args),
        timeout_sec=float(args.timeout or TIMEOUT_SEC),
    )


def _fleet(args: argparse.Namespace) -> int:
    from toolchain.fleet import DEFAULT_JOBS, bundles_of, fleet_jobs, read_fleet, run_fleet
    from toolchain.report.devices import plain_table, write_devices

    given = ("target", "host", "remote_dir", "remote_python", "ssh_option", "ssh_config", "timeout")
    twice = [name for name in given if getattr(args, name)]
    if twice:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in twice)
        raise UserError(f"{names} and --fleet", "a fleet file says this for each device")
    jobs = fleet_jobs(read_fleet(args.fleet, args.tag), args)
    if args.dry_run:
        return _say_what(jobs)
    outcomes = run_fleet(jobs, args.jobs or DEFAULT_JOBS)
    for bundle in bundles_of(outcomes):
        write_devices(bundle)
        _renew_report(bundle)
    records = [outcome.as_json() for outcome in outcomes]
    if args.json:
        _print_json(records)
    else:
        print(plain_table(records))
    for outcome in outcomes:
        if outcome.error is not None:
            print(f"\n{outcome.job.name}: {outcome.error}", file=sys.stderr)
    return 0 if all(outcome.verdict == "passed" for outcome in outcomes) else _FAILED


def _renew_report(bundle: Path) -> None:
    """The report tells what was just measured; a bundle without a ledger has no such report."""
    from toolchain.ledger.file import FILE
    from toolchain.report.files import write_report_files

    if (bundle / FILE).is_file():
        write_report_files(bundle)


def _say_what(jobs: list[DeviceJob]) -> int:
    for job in jobs:
        print(f"would copy {job.bundle} to {job.host}:{job.remote_folder} and run its smoke test")
    return 0


def _not_measured(outcome: Outcome) -> str:
    names = outcome.as_json()["not_measured"]
    return f"not measured on {outcome.job.host}: {', '.join(names) or 'everything'}"


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
