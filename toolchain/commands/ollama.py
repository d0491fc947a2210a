"""`edgeforge ollama`: create the bundle's model in Ollama and prove it there."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.options import MAKE_VARIABLES, add_options, bundle_folder

if TYPE_CHECKING:
    from runtimes.ollama import Client
    from toolchain.export.ollama.checks import Check

HELP = "create the bundle's model in Ollama and check prompt, answer and stop there"
EXAMPLES = (
    "edgeforge ollama --target laptop",
    "edgeforge ollama --target jetson --model PATH_OR_HUB_ID --name my-model",
    "edgeforge ollama --target laptop --trial --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_options(parser, *MAKE_VARIABLES, "json", "dry_run")
    parser.add_argument(
        "--name", help="the model's name in Ollama (default: edgeforge-<model>-<target>)"
    )
    parser.add_argument(
        "--trial", action="store_true", help="check only: nothing stays in Ollama afterwards"
    )


def run(args: argparse.Namespace) -> int:
    """Create under a trial name, check, print; the model gets its name when every check passed.
    0: every check passed; 1: one failed, and Ollama is as it was before.

    Uses the server at OLLAMA_HOST (default: loopback) when one answers, so that the model stays
    for `ollama run`; otherwise starts one for the user's own store while the checks last.
    Raises `UserError` when there is no Ollama, no bundle, or Ollama refuses.
    """
    from common.stopping import tidy_when_ended
    from runtimes.ollama import check_name, find_binary

    bundle = bundle_folder(args)
    name = check_name(args.name or default_name(bundle))
    binary = find_binary()
    if args.dry_run:
        print(f"would run {binary} create {name} from {bundle} and check it there")
        return 0
    client = _running()
    with tidy_when_ended(), contextlib.ExitStack() as stack:
        proven = _prove(
            client or stack.enter_context(_started()),
            client is None,
            name,
            bundle,
            keep=not args.trial,
        )
    if args.json:
        print(json.dumps(proven.as_json(), indent=2, ensure_ascii=False))
    else:
        print(table(f"Ollama {proven.ollama}, {proven.modelfile}", proven.checks))
        print(_verdict(proven, keep=not args.trial))
    return 0 if proven.passed else 1


@dataclass(frozen=True)
class Proven:
    """What came out: under which name, on which version, with which Modelfile."""

    name: str
    ollama: str
    modelfile: str
    checks: list[Check]

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.status == "failed"]

    @property
    def passed(self) -> bool:
        return not self.failed

    def as_json(self) -> dict[str, Any]:
        checks = [check.as_json() for check in self.checks]
        facts = {"name": self.name, "ollama": self.ollama, "modelfile": self.modelfile}
        return {**facts, "passed": self.passed, "checks": checks}


def _verdict(proven: Proven, *, keep: bool) -> str:
    if not proven.passed:
        count = len(proven.failed)
        return f"{count} check{'s' if count > 1 else ''} failed; {proven.name} was left as it was"
    return f"passed; try: ollama run {proven.name}" if keep else "passed; nothing was left behind"


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


def _prove(client: Client, ours: bool, name: str, bundle: Path, *, keep: bool) -> Proven:
    from runtimes.ollama import is_local
    from runtimes.ollama_server import server
    from runtimes.threads import idle_cores
    from toolchain.export.ollama.check import choose_modelfile, prove, shown
    from toolchain.export.ollama.checks import read_facts
    from toolchain.export.ollama.trial import trial
    from toolchain.trust.sums import require_sound

    require_sound(bundle)
    version = client.version()
    modelfile = choose_modelfile(bundle, version)
    facts = read_facts(bundle, modelfile)
    if ours or is_local(client.url):
        # Threads that wait for each other on busy cores are a hundred times slower.
        client = replace(client, options={"num_thread": idle_cores()})
    with trial(client, name, bundle, modelfile, reopen=server if ours else None) as tried:
        proven = Proven(name, shown(version), modelfile.name, prove(client, tried, facts))
        if proven.passed and keep:
            client.copy(tried, name)
    return proven
