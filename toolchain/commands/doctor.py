"""`edgeforge doctor`: what is installed, what this machine can do, what is missing and its mend."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.options import add_options

if TYPE_CHECKING:
    from runtimes.environment import Problem, Tool

HELP = "what is installed, what this machine can do, what is missing"
EXAMPLES = ("edgeforge doctor", "edgeforge doctor --json")
NEEDED_DISK_BYTES = 1 * 10**9
NEEDED_MEMORY_BYTES = 1 * 10**9
_SHOWN_PACKAGES = ("torch", "transformers", "gguf", "llama-cpp-python", "numpy", "pydantic")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only `--json`."""
    add_options(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Print the report. Exit code 0 when a build can run, else 1."""
    report = examine(Path.cwd())
    print(json.dumps(report, indent=2) if args.json else as_text(report))
    return 0 if report["can_build"] else 1


def examine(folder: Path) -> dict[str, Any]:
    """The whole report as plain values; `folder` is where results would go (its disk counts)."""
    from runtimes import environment
    from runtimes.host import read_host
    from runtimes.lockfile import LOCK
    from runtimes.vendored import llama_cpp_folder

    host, runtime, tools = read_host(), environment.probe_runtime(), environment.find_tools()
    free_bytes = shutil.disk_usage(folder).free
    broken = environment.converter_problems()
    problems = [
        *environment.wrong_packages(),
        *environment.runtime_problems(runtime, host.instructions),
        *broken,
        *_space_problems(free_bytes, host.memory_available_bytes),
    ]
    can_build = not any(problem.blocks_build for problem in problems)
    problems += environment.setup_problems(LOCK.parent) if can_build else []
    problems += [*environment.known_troubles(host.instructions), *_tool_problems(tools)]
    versions = {name: environment.installed_version(name) for name in _SHOWN_PACKAGES}
    return {
        "can_build": can_build,
        "python": {"version": sys.version.split()[0], "executable": sys.executable},
        "packages": versions,
        "runtime": asdict(runtime),
        "converter": None if broken else str(llama_cpp_folder()),
        "host": asdict(host),
        "disk_free_bytes": free_bytes,
        "tools": [asdict(tool) for tool in tools],
        "problems": [asdict(problem) for problem in problems],
    }


def as_text(report: dict[str, Any]) -> str:
    """The report for a person: three short tables, then what is missing."""
    python, runtime = report["python"], report["runtime"]
    installed = [("python", f"{python['version']}  {python['executable']}")]
    installed += [(name, version or "missing") for name, version in report["packages"].items()]
    installed.append(("built for", " ".join(runtime["instructions"]) or runtime["fault"] or "?"))
    installed.append(("converter", report["converter"] or "missing"))
    tools = [(t["name"], t["version"] or t["path"] or "missing") for t in report["tools"]]
    lines = _table("installed", installed)
    lines += _table("machine", _machine_rows(report["host"], report["disk_free_bytes"]))
    lines += _table("tools", tools)
    for problem in report["problems"]:
        kind = "error" if problem["blocks_build"] else "note"
        lines += [f"{kind}: {problem['what']}", f"  hint: {problem['mend']}"]
    lines.append("a build can run" if report["can_build"] else "a build cannot run yet")
    return "\n".join(lines)


def _machine_rows(host: dict[str, Any], disk_free_bytes: int) -> list[tuple[str, str]]:
    cores = f"{host['usable_cores']} usable of {host['logical_cores']} logical"
    memory = f"{_gigabytes(host['memory_available_bytes'])} available"
    rows = [
        ("system", f"{host['os']}, {host['arch']}"),
        ("cpu", host["cpu_model"]),
        ("cores", f"{cores} ({host['physical_cores']} physical), load {host['load_1min']:.1f}"),
        ("instructions", " ".join(host["instructions"]) or "none known"),
        ("memory", f"{memory} of {_gigabytes(host['memory_total_bytes'])}"),
        ("disk", f"{_gigabytes(disk_free_bytes)} free"),
    ]
    if gpu := host["gpu"]:
        size = f", {_gigabytes(gpu['memory_total_bytes'])}" if gpu["memory_total_bytes"] else ""
        driver = f"driver {gpu['driver_version']}, compute {gpu['compute_capability']}"
        rows.append(("gpu", f"{gpu['name']}{size}, {driver}"))
    if jetson := host["jetson"]:
        release = jetson["l4t_release"] or "L4T release unknown"
        mode = jetson["power_mode"] or "unknown"
        rows.append(("jetson", f"{jetson['model']}, {release}, power mode {mode}"))
    return rows


def _table(title: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{title}:", *(f"  {name:<17} {value}" for name, value in rows), ""]


def _space_problems(disk_free_bytes: int, memory_available_bytes: int) -> list[Problem]:
    from runtimes.environment import Problem

    wanted = (
        ("disk", disk_free_bytes, NEEDED_DISK_BYTES, "free some space"),
        ("memory", memory_available_bytes, NEEDED_MEMORY_BYTES, "close other programs"),
    )
    return [
        Problem(f"only {_gigabytes(free)} of {name} left", mend, False)
        for name, free, needed, mend in wanted
        if free < needed
    ]


def _tool_problems(tools: Sequence[Tool]) -> list[Problem]:
    from runtimes.environment import Problem

    return [
        Problem(f"no {tool.name} (for: {tool.purpose})", tool.mend, False)
        for tool in tools
        if tool.path is None
    ]


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
