"""The machine's facts: from folders as real kernels fill them, and from this machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from runtimes import cgroup
from runtimes.host import gpu_of, instructions_of, measure_bandwidth_bytes_per_sec, read_host

linux_only = pytest.mark.skipif(platform.system() != "Linux", reason="reads Linux's /proc")

ORIN_CPUINFO = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc \
dcpop asimddp uscat ilrcpc flagm
CPU implementer\t: 0x41
CPU part\t: 0xd42
"""
X86_CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse avx fma f16c avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8
"""
MEMINFO = "MemTotal:        7802708 kB\nMemFree:  100 kB\nMemAvailable:    5000000 kB\n"


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@linux_only
def test_a_jetson(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path,
        {
            "proc/cpuinfo": ORIN_CPUINFO,
            "proc/meminfo": MEMINFO,
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, "
            "BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n",
            "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
        },
    )
    host = read_host(root)
    assert host.jetson is not None
    assert host.jetson.model == "NVIDIA Jetson Orin Nano Developer Kit"
    assert host.jetson.l4t_release == "R36.4.3"
    assert host.cpu_model == "NVIDIA Jetson Orin Nano Developer Kit"
    assert host.instructions == ("neon", "fp16", "dotprod")
    assert host.os == "Linux Ubuntu 22.04.5 LTS"
    assert (host.memory_total_bytes, host.memory_available_bytes) == (7802708 << 10, 5000000 << 10)


@linux_only
def test_a_board_that_is_no_jetson(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"})
    host = read_host(root)
    assert host.jetson is None
    assert host.cpu_model == "Raspberry Pi 5 Model B Rev 1.0"


@linux_only
def test_cores_that_share_hardware_count_once(tmp_path: Path) -> None:
    files = {"proc/cpuinfo": X86_CPUINFO}
    for cpu in range(8):  # 2 packages of 2 cores of 2 threads
        topology = f"sys/devices/system/cpu/cpu{cpu}/topology"
        files[f"{topology}/physical_package_id"] = f"{cpu // 4}\n"
        files[f"{topology}/core_id"] = f"{cpu % 2}\n"
    host = read_host(write_tree(tmp_path, files))
    assert host.physical_cores == 4
    assert host.cpu_model == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"


def test_instruction_names() -> None:
    assert instructions_of(X86_CPUINFO) == (
        *("avx", "avx2", "fma", "f16c"),
        *("avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    )
    assert instructions_of("processor : 0\n") == ()


@linux_only
def test_a_container_with_cgroup_v2_limits(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/outer/inner\n",
            "sys/fs/cgroup/outer/cpu.max": "100000 100000\n",
            "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
            "sys/fs/cgroup/outer/memory.max": "2000000000\n",
            "sys/fs/cgroup/outer/memory.current": "1500000000\n",
            "sys/fs/cgroup/outer/memory.stat": "anon 900\ninactive_file 600000000\n",
            "sys/fs/cgroup/outer/inner/memory.max": "max\n",
            "sys/fs/cgroup/outer/inner/memory.current": "5\n",
        },
    )
    host = read_host(root)
    assert host.usable_cores == 1
    assert host.memory_total_bytes == 2_000_000_000
    assert host.memory_available_bytes == 1_100_000_000
    assert cgroup.cpu_quota(root) == 1.0


@linux_only
def test_a_container_with_cgroup_v1_limits_on_its_mount(tmp_path: Path) -> None:
    """The path in /proc is the host's and absent in the container."""
    root = write_tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000000000\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "250000000\n",
            "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 50000000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cgroup.cpu_quota(root) == 1.5
    host = read_host(root)
    assert host.usable_cores == 1
    assert (host.memory_total_bytes, host.memory_available_bytes) == (1_000_000_000, 800_000_000)


def test_no_limits(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n3:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cgroup.cpu_quota(root) is None
    assert cgroup.memory_limit(root) is None


def test_gpu_lines() -> None:
    gpu = gpu_of("NVIDIA H100 80GB HBM3, 81559, 550.54.15, 9.0\nNVIDIA T4, 15360, 550.54.15, 7.5\n")
    assert gpu is not None
    assert (gpu.name, gpu.memory_total_bytes) == ("NVIDIA H100 80GB HBM3", 81559 << 20)
    assert (gpu.driver_version, gpu.compute_capability) == ("550.54.15", "9.0")
    orin = gpu_of("Orin (nvgpu), [N/A], 540.4.0, 8.7\n")
    assert orin is not None and orin.memory_total_bytes == 0
    assert gpu_of("NVIDIA-SMI has failed\n") is None


@linux_only
def test_this_machine_agrees_with_other_sources() -> None:
    import psutil

    host = read_host()
    assert host.logical_cores == psutil.cpu_count()
    assert host.physical_cores == (psutil.cpu_count(logical=False) or host.physical_cores)
    assert 1 <= host.usable_cores <= len(os.sched_getaffinity(0))
    assert host.memory_total_bytes <= psutil.virtual_memory().total
    assert 0 < host.memory_available_bytes <= host.memory_total_bytes
    assert host.arch == platform.machine()


@linux_only
def test_affinity_counts() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{one}}}); "
        "from runtimes.host import read_host; print(read_host().usable_cores)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "1"


def test_importing_it_is_cheap() -> None:
    code = "import sys, runtimes.host; sys.exit('numpy' in sys.modules or 'psutil' in sys.modules)"
    assert subprocess.call([sys.executable, "-c", code]) == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_bandwidth_is_that_of_memory(threads: int) -> None:
    """Between the slowest board's (1 GB/s, on a busy machine) and more than any socket has."""
    assert 2e8 < measure_bandwidth_bytes_per_sec(threads) < 2e12
