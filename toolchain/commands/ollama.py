"""`edgeforge ollama`: create the bundle's model in Ollama and prove it there."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.options import MAKE_VARIABLES, add_options, bundle_folder

if TYPE_CHECKING:
    from runtimes.ollama import Client
    from toolchain.export.ollama.check import Check

HELP = "create the bundle's model in Ollama and check prompt, answer and stop there"
EXAMPLES = (
    "edgeforge ollama --target laptop",
    "edgeforge ollama --target jetson --model PATH_OR_HUB_ID --name my-model",
    "edgeforge ollama --target laptop --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_options(parser, *MAKE_VARIABLES, "json", "dry_run")
    parser.add_argument(
        "--name", help="the model's name in Ollama (default: edgeforge-<model>-<target>)"
    )


def run(args: argparse.Namespace) -> int:
    """Create, check, print. 0: every check passed; 1: one failed.

    Uses the server at OLLAMA_HOST (default: loopback) when one answers, so that the model stays
    for `ollama run`; otherwise starts one for the user's own store while the checks last.
    Raises `UserError` when there is no Ollama, no bundle, or Ollama refuses.
    """
    from runtimes.ollama import check_name, find_binary

    bundle = bundle_folder(args)
    name = check_name(args.name or default_name(bundle))
    binary = find_binary()
    if args.dry_run:
        print(f"would run {binary} create {name} from {bundle} and check it there")
        return 0
    with contextlib.ExitStack() as stack:
        client = _running() or stack.enter_context(_started())
        version, modelfile, checks = _prove(client, name, bundle)
    failed = [check for check in checks if check.status == "failed"]
    if args.json:
        result = {
            "name": name,
            "ollama": version,
            "modelfile": modelfile,
            "passed": not failed,
            "checks": [check.as_json() for check in checks],
        }
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        print(table(f"Ollama {version}, {modelfile}", checks))
        print(f"{len(failed)} checks failed" if failed else f"passed; try: ollama run {name}")
    return 1 if failed else 0


def default_name(bundle: Path) -> str:
    """edgeforge-<model>-<target>, from the bundle's folder OUT/<model>/<target>."""
    model = bundle.parent.name.removeprefix("edgeforge-")
    text = f"edgeforge-{model}-{bundle.name}".lower()
    return re.sub(r"[^a-z0-9._-]+", "-", text)[:80]


def table(title: str, checks: list[Check]) -> str:
    """The checks for a reader at a terminal."""
    width = max(len(check.name) for check in checks)
    return "\n".join(
        [title, *(f"  {check.name.ljust(width)}  {check.status}  {check.note}" for check in checks)]
    )


def _running() -> Client | None:
    from runtimes.ollama import Client, base_url

    client = Client(base_url())
    return client if client.is_running() else None


def _started() -> contextlib.AbstractContextManager[Client]:
    from runtimes.ollama_server import server

    print("no Ollama is running: one is started while the checks last", file=sys.stderr)
    return server()


def _prove(client: Client, name: str, bundle: Path) -> tuple[str, str, list[Check]]:
    from toolchain.export.ollama.check import choose_modelfile, prove, shown
    from toolchain.trust.sums import require_sound

    require_sound(bundle)
    version = client.version()
    modelfile = choose_modelfile(bundle, version)
    return shown(version), modelfile.name, prove(client, name, bundle, modelfile)
