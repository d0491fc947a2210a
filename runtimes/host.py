"""Facts of the machine at hand: CPU, memory, load, GPU, Jetson. Each is read, none is assumed.

Linux is read from /proc and /sys; what a container was given (affinity, cgroup quota and limit)
counts, not what the machine has. macOS is read through sysctl and is untested.

    python -c "from runtimes.host import read_host; print(read_host())"
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from runtimes import cgroup

# Features as Linux names them → names of the field. Only what llama.cpp's kernels make use of.
_X86 = {
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
}
_ARM = {
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
_MACOS = {"hw.optional.arm.FEAT_DotProd": "dotprod", "hw.optional.arm.FEAT_I8MM": "i8mm"}
_TOOL_TIMEOUT_SEC = 10
_BANDWIDTH_BUFFER_BYTES = 256 << 20  # far beyond the caches of today's CPUs
_BANDWIDTH_TIME_SEC = 0.3


@dataclass(frozen=True)
class Gpu:
    """What nvidia-smi says of the first GPU."""

    name: str
    memory_total_bytes: int
    driver_version: str
    compute_capability: str


@dataclass(frozen=True)
class Jetson:
    """A Jetson's model, its L4T release (`R36.4.0`) and power mode, as far as they can be read."""

    model: str
    l4t_release: str | None
    power_mode: str | None


@dataclass(frozen=True)
class Host:
    """The machine at hand. `usable_cores` and the memory are what this process may use."""

    os: str
    arch: str
    cpu_model: str
    physical_cores: int
    logical_cores: int
    usable_cores: int
    instructions: tuple[str, ...]
    memory_total_bytes: int
    memory_available_bytes: int
    load_1min: float
    gpu: Gpu | None
    jetson: Jetson | None


def read_host(root: Path = Path("/")) -> Host:
    """Read the machine. `root` is where /proc, /sys and /etc lie (another one for tests)."""
    arch = platform.machine()
    if platform.system() == "Darwin":
        return _read_macos(arch)
    cpu = _read_text(root / "proc/cpuinfo")
    logical = os.cpu_count() or 1
    total_bytes, available_bytes = _memory(root)
    return Host(
        os=_os_name(root),
        arch=arch,
        cpu_model=_cpu_model(cpu, root),
        physical_cores=_physical_cores(root) or logical,
        logical_cores=logical,
        usable_cores=_usable_cores(root),
        instructions=instructions_of(cpu),
        memory_total_bytes=total_bytes,
        memory_available_bytes=available_bytes,
        load_1min=os.getloadavg()[0],
        gpu=_read_gpu(),
        jetson=_read_jetson(root),
    )


def instructions_of(cpuinfo: str) -> tuple[str, ...]:
    """Names of the vector instruction sets in the text of /proc/cpuinfo, in a fixed order."""
    match = re.search(r"^(flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    if not match:
        return ()
    known = _X86 if match[1] == "flags" else _ARM
    present = set(match[2].split())
    return tuple(name for feature, name in known.items() if feature in present)


def measure_bandwidth_bytes_per_sec(threads: int = 1) -> float:
    """Memory read bandwidth with this many threads: the median of repeated reads.

    Each thread ORs its part of a 256 MiB array together (numpy, 64-bit words, the interpreter's
    lock released): every byte comes from memory once and nothing is written back. Reads go on for
    0.3 s and number five at least; a busy machine gives a busy machine's figure.
    """
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    words = np.ones(_BANDWIDTH_BUFFER_BYTES // 8, dtype=np.uint64)  # ones: pages really exist
    parts = np.array_split(words, max(threads, 1))
    speeds: list[float] = []
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        stop_sec = time.perf_counter() + _BANDWIDTH_TIME_SEC
        while len(speeds) < 5 or time.perf_counter() < stop_sec:
            start_sec = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))
            speeds.append(words.nbytes / (time.perf_counter() - start_sec))
    return float(np.median(speeds))


def _os_name(root: Path) -> str:
    release = re.search(r'^PRETTY_NAME="?([^"\n]+)', _read_text(root / "etc/os-release"), re.M)
    return f"{platform.system()} {release[1] if release else platform.release()}"


def _cpu_model(cpuinfo: str, root: Path) -> str:
    """The CPU's name; ARM kernels give the board's instead."""
    match = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else _board(root) or platform.machine()


def _board(root: Path) -> str:
    return _read_text(root / "proc/device-tree/model").strip("\0\n ")


def _physical_cores(root: Path) -> int:
    """Distinct (package, core) pairs; 0 when the kernel does not say."""
    cores = set()
    for topology in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/topology"):
        package, core = (_read_text(topology / n) for n in ("physical_package_id", "core_id"))
        cores.add((package, core))
    return len(cores)


def _usable_cores(root: Path) -> int:
    """CPUs of the affinity mask, or the cgroup's quota where that is less (at least 1)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = cgroup.cpu_quota(root)
    return max(1, min(allowed or 1, int(quota) if quota else allowed or 1))


def _memory(root: Path) -> tuple[int, int]:
    """Total and available bytes, bounded by the cgroup's limit."""
    text = _read_text(root / "proc/meminfo")
    total, available = (
        int(match[1]) * 1024 if (match := re.search(rf"^{name}:\s+(\d+) kB", text, re.M)) else 0
        for name in ("MemTotal", "MemAvailable")
    )
    limit = cgroup.memory_limit(root)
    if limit is None or limit.limit_bytes >= total:
        return total, available
    return limit.limit_bytes, max(0, min(available, limit.limit_bytes - limit.used_bytes))


def _read_gpu() -> Gpu | None:
    query = "--query-gpu=name,memory.total,driver_version,compute_cap"
    output = _output_of("nvidia-smi", query, "--format=csv,noheader,nounits")
    return gpu_of(output) if output else None


def gpu_of(csv: str) -> Gpu | None:
    """The first line of nvidia-smi's answer; 0 bytes where it says [N/A] (shared memory)."""
    cells = [cell.strip() for cell in csv.strip().split("\n", 1)[0].split(",")]
    if len(cells) != 4:
        return None
    name, mebibytes, driver, capability = cells
    return Gpu(name, int(mebibytes) << 20 if mebibytes.isdigit() else 0, driver, capability)


def _read_jetson(root: Path) -> Jetson | None:
    board = _board(root)
    release = re.search(
        r"# (R\d+) \(release\), REVISION: ([\d.]+)", _read_text(root / "etc/nv_tegra_release")
    )
    if not release and not re.search(r"jetson", board, re.IGNORECASE):
        return None
    mode = re.search(r"NV Power Mode\s*:\s*(\S+)", _output_of("nvpmodel", "-q"))
    l4t = f"{release[1]}.{release[2]}" if release else None
    return Jetson(board or "NVIDIA Jetson", l4t, mode[1] if mode else None)


def _read_macos(arch: str) -> Host:
    def sysctl(name: str) -> str:
        return _output_of("sysctl", "-n", name).strip()

    logical = os.cpu_count() or 1
    total_bytes = int(sysctl("hw.memsize") or 0)
    pages = re.findall(r"Pages (?:free|inactive|speculative):\s+(\d+)", _output_of("vm_stat"))
    arm = ("neon",) if arch == "arm64" else ()
    return Host(
        os=f"macOS {platform.mac_ver()[0]}",
        arch=arch,
        cpu_model=sysctl("machdep.cpu.brand_string") or arch,
        physical_cores=int(sysctl("hw.physicalcpu") or logical),
        logical_cores=logical,
        usable_cores=logical,
        instructions=(*arm, *(name for key, name in _MACOS.items() if sysctl(key) == "1")),
        memory_total_bytes=total_bytes,
        memory_available_bytes=sum(map(int, pages)) * int(sysctl("hw.pagesize") or 4096),
        load_1min=os.getloadavg()[0],
        gpu=None,
        jetson=None,
    )


def _read_text(path: Path) -> str:
    """A small file's text; empty when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output_of(*command: str) -> str:
    """What a tool prints; empty when it is absent, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_SEC)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
