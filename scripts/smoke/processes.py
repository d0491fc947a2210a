"""Memory of the process that holds the model: resident, on a GPU, or shared."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .child import find_program, output_of


def process_with(marker: str, root: Path = Path("/")) -> int | None:
    """The process that has this on its command line; of several the one that holds most memory."""
    found: dict[int, int] = {}
    for folder in (root / "proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        pid = int(folder.name)
        if marker.encode() in words and pid != os.getpid():
            found[pid] = status_bytes(pid, "VmHWM", root) or 0
    return max(found, key=lambda pid: found[pid]) if found else None


def peak_rss_bytes(pid: int | None, root: Path = Path("/")) -> int | None:
    """Largest resident set of a process so far; None where the system does not tell."""
    if pid is None:
        return None
    peak = status_bytes(pid, "VmHWM", root)
    return _rusage_bytes("RUSAGE_SELF") if peak is None and pid == os.getpid() else peak


def children_peak_rss_bytes() -> int | None:
    """Largest resident set of any program that this process started and that ended."""
    return _rusage_bytes("RUSAGE_CHILDREN")


def _rusage_bytes(who: str) -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(getattr(resource, who)).ru_maxrss) * unit


def status_bytes(pid: int, key: str, root: Path = Path("/")) -> int | None:
    return _kib_field(root / "proc" / str(pid) / "status", key)


def available_bytes(root: Path = Path("/")) -> int | None:
    return _kib_field(root / "proc/meminfo", "MemAvailable")


def _kib_field(path: Path, key: str) -> int | None:
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def is_jetson(root: Path = Path("/")) -> bool:
    """Whether CPU and GPU share one memory, as on NVIDIA's Tegra chips."""
    return (
        "tegra" in device_tree(root / "proc/device-tree/compatible")
        or (root / "etc/nv_tegra_release").exists()
    )


def device_tree(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace").replace("\0", " ").strip()
    except OSError:
        return ""


class GpuMemory:
    """What the model takes of GPU memory: made before the model is loaded, asked afterwards."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._jetson = is_jetson(root)
        self._program = None if self._jetson else find_program("nvidia-smi")
        self._available = available_bytes(root)
        self._used = self._used_bytes()

    def read(self, pid: int | None) -> tuple[int | None, str]:
        """Bytes, and what was read or why nothing could be.

        On a Jetson the driver's own figure (nvmap in debugfs) is for root alone, so it is the fall
        of MemAvailable, in which the rest of the system has its part.
        """
        if self._jetson:
            now = available_bytes(self._root)
            if now is None or self._available is None:
                return None, "not readable here: /proc/meminfo has no MemAvailable"
            return max(0, self._available - now), "unified memory: fall of MemAvailable"
        if self._program is None:
            return None, "not readable here: no nvidia-smi, so no NVIDIA GPU"
        own = gpu_bytes_of(pid, output_of([*self._command("compute-apps", "pid,used_memory")]))
        if own is not None:
            return own, "nvidia-smi, of the process"
        now = self._used_bytes()
        if now is None or self._used is None:
            return None, "not readable here: nvidia-smi gives no figure"
        return max(0, now - self._used), "nvidia-smi, of the whole GPU"

    def _used_bytes(self) -> int | None:
        if self._program is None:
            return None
        return sum_mib(output_of(self._command("gpu", "memory.used")))

    def _command(self, what: str, fields: str) -> list[str]:
        return [str(self._program), f"--query-{what}={fields}", "--format=csv,noheader,nounits"]


def sum_mib(text: str) -> int | None:
    """Sum of the numbers that nvidia-smi gives, a line for each GPU, in bytes."""
    figures = [line.strip() for line in text.splitlines() if line.strip()]
    if not figures or not all(figure.isdigit() for figure in figures):
        return None
    return sum(int(figure) for figure in figures) << 20


def gpu_bytes_of(pid: int | None, text: str) -> int | None:
    """Memory of one process in `pid, MiB` lines; containers see other process numbers, so None."""
    rows = [line.split(",") for line in text.splitlines() if line.count(",") == 1]
    mine = [used.strip() for number, used in rows if number.strip() == str(pid)]
    if not mine or not all(used.isdigit() for used in mine):
        return None
    return sum(int(used) for used in mine) << 20
