"""What is installed, against the lock, and what is missing: the facts behind `edgeforge doctor`.

Only standard library at import; the runtime is tried in a process of its own, since a build made
for another CPU may end the process that loads it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from common.errors import UserError
from runtimes.lockfile import Pin, read_lock
from runtimes.vendored import damaged_files, llama_cpp_folder

RUNTIME = "llama-cpp-python"
TOOLS = {  # command → how it says its version, what it is for, how it is got
    "c++": (("--version",), "building the runtime", "sudo apt install g++"),
    "cmake": (("--version",), "building llama.cpp's own tools", "sudo apt install cmake"),
    "git": (("--version",), "fetching sources", "sudo apt install git"),
    "go": (("version",), "building Ollama from source", "https://go.dev/doc/install"),
    "ollama": (
        ("--version",),
        "make ollama",
        "https://ollama.com/download, or with Go: bash scripts/install_ollama.sh",
    ),
}
# Instruction sets that both the runtime and the kernel name.
COMPARED = (
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16"),
    *("amx_int8", "neon", "fp16", "dotprod", "i8mm", "sve", "sme"),
)
_CUDA_ONLY = re.compile(r"^(nvidia-|cuda-|triton$)")
_TOOL_TIMEOUT_SEC = 20
_PROBE = (
    "import llama_cpp; llama_cpp.llama_backend_init(); "
    "print(llama_cpp.llama_print_system_info().decode())"
)


@dataclass(frozen=True)
class Problem:
    """Something missing or wrong. `blocks_build`: no build can run before `mend` was done."""

    what: str
    mend: str
    blocks_build: bool


@dataclass(frozen=True)
class Tool:
    """A command of the machine; `path` is None when it is absent."""

    name: str
    path: str | None
    version: str | None
    purpose: str
    mend: str


@dataclass(frozen=True)
class Runtime:
    """llama.cpp as built here: the instruction sets that it was compiled for, in its own words."""

    version: str | None
    system_info: str | None
    instructions: tuple[str, ...]
    fault: str | None


def wrong_packages() -> list[Problem]:
    """Packages of the lock that are absent or of another version on this machine."""
    from packaging.markers import Marker

    pins = [pin for pin in read_lock() if not pin.marker or Marker(pin.marker).evaluate()]
    if (installed_version("torch") or "").endswith("+cpu"):
        pins = [pin for pin in pins if not _CUDA_ONLY.match(pin.name)]
    return [problem for pin in pins if (problem := _package_problem(pin))]


def known_troubles(host_instructions: tuple[str, ...]) -> list[Problem]:
    """Versions of this environment's packages and of the machine's programs that are known not to
    work, or not to be safe, by `known_trouble.yaml`."""
    from runtimes.trouble import troubles

    return [
        Problem(f"{one.name} {version}: {one.trouble}", one.mend, False)
        for one, version in troubles(_version_here, host_instructions)
    ]


def _version_here(name: str) -> str | None:
    if name not in TOOLS:
        return installed_version(name)
    path = shutil.which(name)
    return _tool_version(path, TOOLS[name][0])


def installed_version(name: str) -> str | None:
    """A package's version, None when it is absent."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def probe_runtime() -> Runtime:
    """Load the runtime in a fresh process and ask what it was built for."""
    version = installed_version(RUNTIME)
    if version is None:
        return Runtime(None, None, (), "llama-cpp-python is not installed")
    command = [sys.executable, "-P", "-c", _PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return Runtime(version, None, (), "the runtime does not answer")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        reason = f"killed by signal {-done.returncode}" if done.returncode < 0 else last
        return Runtime(version, None, (), f"the runtime does not load: {reason}")
    info = done.stdout.strip()
    return Runtime(version, info, _instructions(info), None)


def runtime_problems(runtime: Runtime, host_instructions: tuple[str, ...]) -> list[Problem]:
    """A runtime that does not load, or that was compiled for a CPU with more instruction sets."""
    rebuild = "make clean setup"
    if runtime.fault:
        return [Problem(runtime.fault, "make setup" if not runtime.version else rebuild, True)]
    foreign = [name for name in runtime.instructions if name not in host_instructions]
    if foreign:
        what = f"the runtime was built for another CPU: this one lacks {', '.join(foreign)}"
        return [Problem(what, rebuild, True)]
    return []


def converter_problems() -> list[Problem]:
    """The converter is absent, of another revision, or changed on disk."""
    try:
        llama_cpp_folder()
    except UserError as error:
        return [Problem(error.problem, error.mend, True)]
    damaged = damaged_files()
    if damaged:
        what = f"{len(damaged)} files of llama.cpp's converter are damaged, e.g. {damaged[0]}"
        return [Problem(what, "make clean setup", True)]
    return []


def find_tools() -> list[Tool]:
    """Commands that set-up or optional verbs use, with their versions; this environment's first."""
    places = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return [
        Tool(
            name,
            path := shutil.which(name, path=places),
            _tool_version(path, arguments),
            purpose,
            mend,
        )
        for name, (arguments, purpose, mend) in TOOLS.items()
    ]


def setup_problems(root: Path) -> list[Problem]:
    """Whether set-up would have something to do (asked of the set-up script itself)."""
    script = root / "scripts" / "setup.py"
    done = subprocess.run([sys.executable, str(script), "--check"], stdin=subprocess.DEVNULL)
    if done.returncode:
        return [Problem("set-up is incomplete or of an older lock", "make setup", False)]
    return []


def _package_problem(pin: Pin) -> Problem | None:
    found = installed_version(pin.name)
    if found is None:
        return Problem(f"{pin.name} {pin.version} is not installed", "make setup", True)
    if found.split("+")[0] != pin.version:
        what = f"{pin.name} is {found}, the lock has {pin.version}"
        return Problem(what, "make setup", True)
    return None


def _instructions(system_info: str) -> tuple[str, ...]:
    """`AVX512_VNNI = 1` → `avx512_vnni`, for the sets that `runtimes.host` knows too."""
    spelled = {"avx512": "avx512f", "matmul_int8": "i8mm", "fp16_va": "fp16"}
    names = (n.lower() for n in re.findall(r"\b([A-Z][A-Z0-9_]+) = 1", system_info))
    compiled = {spelled.get(name, name) for name in names}
    return tuple(name for name in COMPARED if name in compiled)


def _tool_version(path: str | None, arguments: tuple[str, ...]) -> str | None:
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=_TOOL_TIMEOUT_SEC
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\d+\.\d+(?:\.\d+)?", done.stdout + done.stderr)
    return match[0] if match else None
