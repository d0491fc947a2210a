"""`edgeforge targets`: list the devices, show one, check target files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from toolchain.options import add_options

if TYPE_CHECKING:
    from targets.schema import Target

HELP = "devices: list them, show one, check target files"
EXAMPLES = (
    "edgeforge targets list",
    "edgeforge targets show jetson",
    "edgeforge targets validate my-device.yaml",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-verbs and their options."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = verbs.add_parser("list", help="every shipped target", allow_abbrev=False)
    add_options(listing, "json")
    show = verbs.add_parser("show", help="one target in full", allow_abbrev=False)
    show.add_argument("name", metavar="NAME", help="a name, an alias or a file")
    add_options(show, "json")
    check = verbs.add_parser("validate", help="check target files", allow_abbrev=False)
    check.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="default: every shipped target"
    )
    add_options(check, "json")


def run(args: argparse.Namespace) -> int:
    """Run one sub-verb. Raises `UserError` for an unknown target or a faulty file."""
    if args.action == "list":
        return _list(args.json)
    if args.action == "show":
        return _show(args.name, args.json)
    return _validate(args.files, args.json)


def _list(as_json: bool) -> int:
    from targets.registry import load_target, target_names
    from toolchain.plan_report import table_text

    targets = [load_target(name) for name in target_names()]
    if as_json:
        print(
            json.dumps([t.model_dump(mode="json") for t in targets], indent=2, ensure_ascii=False)
        )
        return 0
    header = ("name", "alias", "memory", "bandwidth", "accelerator", "types", "device")
    print("\n".join(table_text(header, [_row(target) for target in targets])))
    return 0


def _row(target: Target) -> tuple[str, ...]:
    return (
        target.name,
        ", ".join(target.aliases) or "-",
        f"{target.memory.usable_gib:g} of {target.memory.total_gib:g} GiB",
        f"{target.decode_bandwidth_gb_per_sec():g} GB/s",
        target.accelerator.kind,
        " ".join(target.quantization),
        target.title,
    )


def _show(name: str, as_json: bool) -> int:
    from targets.registry import load_target

    target = load_target(name)
    data = target.model_dump(mode="json", exclude_none=not as_json)
    if as_json:
        print(json.dumps(data, indent=2, ensure_ascii=False))
        return 0
    import yaml

    print(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100).rstrip())
    return 0


def _validate(files: list[Path], as_json: bool) -> int:
    """Check every file before reporting, so that one run names all faults of all files."""
    from targets.registry import alias_table, target_files, validate_file

    faults: dict[str, list[str]] = {}
    checked = files or target_files()
    for path in checked:
        try:
            validate_file(path)
        except UserError as error:
            faults[str(path)] = list(error.details) or [error.problem]
    if not files and not faults:
        alias_table()
    if as_json:
        valid = [str(path) for path in checked if str(path) not in faults]
        print(json.dumps({"valid": valid, "faults": faults}, indent=2, ensure_ascii=False))
    else:
        for path in checked:
            print(f"{'FAULTY' if str(path) in faults else 'ok':<7}{path}")
    if faults:
        details = [f"{path}: {fault}" for path, found in faults.items() for fault in found]
        raise UserError(
            f"{len(faults)} of {len(checked)} target files have faults",
            "mend the keys named above; targets/README.md explains them",
            details=details,
        )
    return 0
