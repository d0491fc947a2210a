"""Look at a device before anything is copied there: one command, nothing changed.

facts = preflight(device, folder="~/.cache/edgeforge/bundles", python="python3")
refuse(facts, needs)        # UserError: wrong CPU, no Python, too little memory, no engine
advice(facts)               # what would make it faster, as commands for its owner
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runtimes.remote.faults import DeviceError, last_line
from runtimes.remote.jetson import JetsonFacts, jetson_facts
from runtimes.remote.ssh import Connection

MIN_PYTHON = (3, 8)
TIMEOUT_SEC = 60.0
_BEGIN, _END = "edgeforge-preflight begin", "edgeforge-preflight end"
_SAME_ARCH = {"arm64": "aarch64", "amd64": "x86_64", "armv8l": "armv7l"}

# What can run a bundle's format: each row is an engine and what it needs to be there.
_ENGINES: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "gguf": (
        ("ollama", ("ollama_api",)),
        ("llama-server", ("program_llama-server",)),
        ("llama-cli", ("program_llama-cli",)),
        ("llama-cpp-python", ("module_llama_cpp",)),
    ),
    "onnx": (("onnxruntime", ("module_onnxruntime", "module_tokenizers", "module_numpy")),),
}
_INSTALL = {
    "gguf": "install one there: pip install llama-cpp-python, Ollama, or llama.cpp "
    "(on a Jetson: scripts/build_llama_cpp_jetson.sh); in a virtual environment: "
    "--remote-python VENV/bin/python",
    "onnx": "install it there: pip install onnxruntime tokenizers numpy; in a virtual environment: "
    "--remote-python VENV/bin/python",
}


@dataclass(frozen=True)
class DeviceFacts:
    """What a device said about itself. Values that it did not tell are None or empty."""

    host: str
    arch: str
    kernel: str
    system: str
    path: str
    cores: int | None
    memory_total_bytes: int | None
    memory_available_bytes: int | None
    swap_total_bytes: int | None
    swap_free_bytes: int | None
    zram_bytes: int | None
    disk_place: str
    disk_free_bytes: int | None
    disk_writable: bool
    python: str
    python_version: str
    python_bits: int | None
    rsync: bool
    engines: Mapping[str, str]
    jetson: JetsonFacts | None
    clean_shell: bool
    values: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """For `device.json`."""
        hidden = {"values", "clean_shell", "path", "jetson"}
        facts = {key: value for key, value in vars(self).items() if key not in hidden}
        return {
            **facts,
            "engines": dict(self.engines),
            "jetson": vars(self.jetson) if self.jetson else None,
        }


@dataclass(frozen=True)
class Needs:
    """What a bundle asks of a device. `memory_bytes` 0: not to be judged."""

    target: str
    arch: str
    format: Literal["gguf", "onnx"]
    memory_bytes: int


def preflight(
    device: Connection, *, folder: str, python: str = "python3", root: str = ""
) -> DeviceFacts:
    """Ask the device. `root` is for tests. Raises `DeviceError` when it does not answer."""
    settings = {"FOLDER": folder, "PYTHON": python, "ROOT": root}
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in settings.items()]
    script = "".join(lines) + Path(__file__).with_name("preflight.sh").read_text("utf-8")
    done = device.run(
        "sh -s",
        stdin=script.encode(),
        timeout_sec=TIMEOUT_SEC,
        doing="looking at it",
        place="check",
    )
    out = done.stdout.decode("utf-8", "replace")
    if _END not in out:
        said = last_line(done.stderr.decode("utf-8", "replace"), "no reason given")
        raise DeviceError(
            f"{device.host} runs no POSIX shell commands: {said}",
            f"this must print 1: ssh {device.host} 'sh -c \"echo 1\"'",
            place="check",
        )
    return read_facts(device.host, out)


def read_facts(host: str, text: str) -> DeviceFacts:
    """The facts in what `preflight.sh` printed; a login shell may print before and after."""
    noise, _, rest = text.partition(_BEGIN)
    pairs = (line.partition("=") for line in rest.partition(_END)[0].splitlines())
    values = {key: value.strip() for key, _, value in pairs if value.strip()}
    arch = values.get("arch", "")
    return DeviceFacts(
        host=host,
        arch=_SAME_ARCH.get(arch, arch),
        kernel=values.get("kernel", ""),
        system=values.get("system", ""),
        path=values.get("path", ""),
        cores=_number(values, "cores"),
        memory_total_bytes=_number(values, "memory_total_bytes"),
        memory_available_bytes=_number(values, "memory_available_bytes"),
        swap_total_bytes=_number(values, "swap_total_bytes"),
        swap_free_bytes=_number(values, "swap_free_bytes"),
        zram_bytes=_number(values, "zram_bytes"),
        disk_place=values.get("disk_place", ""),
        disk_free_bytes=_number(values, "disk_free_bytes"),
        disk_writable=values.get("disk_writable") == "yes",
        python=values.get("python", ""),
        python_version=values.get("python_version", ""),
        python_bits=_number(values, "python_bits"),
        rsync="program_rsync" in values,
        engines=_engines(values),
        jetson=jetson_facts(values),
        clean_shell=not noise.strip(),
        values=values,
    )


def refuse(facts: DeviceFacts, needs: Needs) -> None:
    """Raise `DeviceError` when the bundle cannot be tested there."""
    for look in (_wrong_arch, _no_python, _no_engine, _no_memory, _no_folder):
        if error := look(facts, needs):
            raise error


def advice(facts: DeviceFacts) -> list[str]:
    """What its owner may do for speed or room. Nothing of it is ever done from here."""
    said = facts.jetson.advice() if facts.jetson else []
    total, swap = facts.memory_total_bytes, facts.swap_total_bytes
    if facts.jetson and total and swap is not None and not swap - (facts.zram_bytes or 0):
        said.append(
            "no swap on disk: loading a model near the memory's size can fail; on an NVMe disk: "
            "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile "
            "&& sudo swapon /swapfile"
        )
    if "ollama (not running)" in facts.engines:
        said.append("Ollama is installed but does not answer: ollama serve")
    return said


def _wrong_arch(facts: DeviceFacts, needs: Needs) -> DeviceError | None:
    if facts.arch == needs.arch and (facts.python_bits != 32 or "64" not in needs.arch):
        return None
    if facts.arch == needs.arch:
        return _error(
            f"{facts.host} runs a 32-bit system on a 64-bit CPU; {needs.target} needs {needs.arch}",
            "install a 64-bit system there",
        )
    return _error(
        f"{facts.host} is {facts.arch or 'of an unknown kind'}, but the target {needs.target} is "
        f"{needs.arch}",
        "name the target that this device is: edgeforge targets list",
    )


def _no_python(facts: DeviceFacts, needs: Needs) -> DeviceError | None:
    wanted = ".".join(map(str, MIN_PYTHON))
    mend = (
        f"install Python {wanted} or newer there, or name one: --remote-python /usr/bin/python3.10"
    )
    if not facts.python_version:
        return _error(f"{facts.host} has no working Python 3", mend)
    if tuple(map(int, facts.python_version.split("."))) < MIN_PYTHON:
        return _error(f"{facts.host} has Python {facts.python_version}, too old", mend)
    return None


def _no_engine(facts: DeviceFacts, needs: Needs) -> DeviceError | None:
    if any(name in facts.engines for name, _ in _ENGINES[needs.format]):
        return None
    names = ", ".join(name for name, _ in _ENGINES[needs.format])
    return _error(
        f"{facts.host} has no engine for this {needs.format.upper()} bundle (looked for: {names})",
        _INSTALL[needs.format],
    )


def _no_memory(facts: DeviceFacts, needs: Needs) -> DeviceError | None:
    free = facts.memory_available_bytes
    if free is None or free >= needs.memory_bytes:
        return None
    return _error(
        f"not enough memory on {facts.host}: the model needs {needs.memory_bytes / 1e9:.2f} GB, "
        f"{free / 1e9:.2f} GB are available",
        "close other programs there (a desktop: sudo systemctl isolate multi-user.target), or "
        "build a smaller type: quantization=Q4_K_M",
    )


def _no_folder(facts: DeviceFacts, needs: Needs) -> DeviceError | None:
    if facts.disk_writable:
        return None
    return _error(
        f"{facts.disk_place or 'the folder'} on {facts.host} cannot be written to",
        "choose another folder with --remote-dir",
    )


def _engines(values: Mapping[str, str]) -> dict[str, str]:
    """Engine → version, in the order in which the smoke test takes them."""
    found = {}
    for rows in _ENGINES.values():
        for name, keys in rows:
            if all(key in values for key in keys):
                version = values.get(f"version_{name}") or values[keys[0]]
                found[name] = version
    if "program_ollama" in values and "ollama" not in found:
        found["ollama (not running)"] = values.get("version_ollama", "unknown")
    return found


def _number(values: Mapping[str, str], key: str) -> int | None:
    try:
        return int(float(values[key]))
    except (KeyError, ValueError):
        return None


def _error(problem: str, mend: str) -> DeviceError:
    return DeviceError(problem, mend, place="check")
