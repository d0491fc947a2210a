"""What a process is short of, set in the process itself before its command begins."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_FOWNER = 1, 2, 3


def file_size(most_bytes: int) -> None:
    """No file may be larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))


def handles(more: int) -> None:
    """So many files may be open beside those that are."""
    os.close(first := os.open("/", os.O_RDONLY))  # the first number that is free
    most = first + more
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def memory(more_bytes: int) -> None:
    """So much address space beside what is mapped already."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def no_rights() -> None:
    """Be bound by the rights of files, as every user but root is."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for one in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_FOWNER):
        libc.prctl(_PR_CAPBSET_DROP, one, 0, 0, 0)  # for programs that it starts
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for at in range(3):
        sets[at] &= ~(1 << _CAP_DAC_OVERRIDE | 1 << _CAP_DAC_READ_SEARCH | 1 << _CAP_FOWNER)
    assert libc.capset(header, sets) == 0


@contextmanager
def small_disk(folder: Path, size_bytes: int, *options: str) -> Iterator[Path]:
    """A file system of this size at the folder; the test is skipped where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    given = ",".join([f"size={size_bytes}", "mode=0755", *options])
    command = ["mount", "-t", "tmpfs", "-o", given, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave_bytes: int) -> Path:
    """A file that takes all room of the file system but so many bytes."""
    ballast = folder / "ballast"
    size = 0
    with ballast.open("wb") as stream:
        while (more := _room(folder) - leave_bytes) > 0:
            with contextlib.suppress(OSError):  # the command was quicker
                os.posix_fallocate(stream.fileno(), size, more)
                size += more
    return ballast


def _room(folder: Path) -> int:
    free = os.statvfs(folder)
    return free.f_bavail * free.f_frsize


def remount(folder: Path, option: str) -> None:
    """Change the file system at the folder: `ro`, `rw`."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)
