"""What a container was given: CPU quota and memory limit of this process's cgroup, v2 or v1."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MOUNT = "sys/fs/cgroup"


@dataclass(frozen=True)
class MemoryLimit:
    """`used_bytes` leaves out file pages that the kernel can drop."""

    limit_bytes: int
    used_bytes: int


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs' worth of time that this process may use; None without a limit."""
    quotas = []
    for folder in _folders(root, "cpu"):
        v2 = _words(folder / "cpu.max")
        v1 = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        for quota, period in (words for words in (v2, v1) if len(words) == 2):
            if quota.isdigit() and int(period) > 0:  # "max" and -1 mean no limit
                quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_limit(root: Path = Path("/")) -> MemoryLimit | None:
    """The tightest memory limit above this process; None without one."""
    limits = []
    for folder in _folders(root, "memory"):
        for limit_file, used_file, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _words(folder / limit_file), _words(folder / used_file)
            if limit and used and limit[0].isdigit():
                droppable = _statistic(folder / "memory.stat", cached)
                limits.append(MemoryLimit(int(limit[0]), max(0, int(used[0]) - droppable)))
    return min(limits, key=lambda limit: limit.limit_bytes, default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """This process's cgroup folders of one controller and their parents up to the mount.

    In a container the path that /proc gives is often the host's and absent; the mount itself is
    then the container's own.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / _MOUNT / controllers if controllers else root / _MOUNT
        if controllers and not base.is_dir():
            base = root / _MOUNT / controller
        own = base / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(base):
                yield folder


def _statistic(path: Path, name: str) -> int:
    match = re.search(rf"^{name} (\d+)$", _text(path), re.MULTILINE)
    return int(match[1]) if match else 0


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
