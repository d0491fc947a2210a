"""What a stage itself costs: wall time, peak memory of the process and its children, energy.

    with watching() as watch: ...
    watch.cost.peak_rss_bytes

A thread looks at the process tree a few times a second; the series, thinned, is the report's plot
of resources over time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from runtimes.energy import find_meter, measuring

_SAMPLE_SEC = 0.25
_MOST_POINTS = 60


@dataclass(frozen=True)
class Cost:
    """`joules` is the whole machine's, None where nothing can be read. `series` has (seconds since
    the start, resident bytes of the process tree, cores busy with it) in order of time."""

    wall_sec: float
    peak_rss_bytes: int
    joules: float | None = None
    series: tuple[tuple[float, int, float], ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read_cost(data: Mapping[str, Any]) -> Cost:
    """The cost that `as_json` wrote."""
    series = tuple((float(t), int(rss), float(cpu)) for t, rss, cpu in data["series"])
    return Cost(data["wall_sec"], data["peak_rss_bytes"], data["joules"], series)


class Watch:
    """Samples until `stop`; `cost` is set then."""

    def __init__(self) -> None:
        self.cost = Cost(0.0, 0)
        self._points: list[tuple[float, int, float]] = []
        self._ended = threading.Event()
        self._start = time.perf_counter()
        self._last = (self._start, _tree()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and sum up, with a last look."""
        self._ended.set()
        self._thread.join()
        self._look()
        peak = max(rss for _, rss, _ in self._points)
        wall_sec = round(time.perf_counter() - self._start, 3)
        self.cost = Cost(wall_sec, peak, None, _thinned(self._points))

    def _run(self) -> None:
        while not self._ended.wait(_SAMPLE_SEC):
            self._look()

    def _look(self) -> None:
        rss_bytes, cpu_sec = _tree()
        now, (then, before) = time.perf_counter(), self._last
        self._last = (now, cpu_sec)
        # A child that ended takes its seconds along.
        busy = max(0.0, cpu_sec - before) / max(now - then, 1e-3)
        self._points.append((round(now - self._start, 3), rss_bytes, round(busy, 2)))


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch a block; `cost` is complete once it is left, whether it ended well or not."""
    watch = Watch()
    try:
        with measuring(find_meter()) as energy:
            yield watch
    finally:
        watch.stop()
    joules = None if energy.joules is None else round(energy.joules, 3)
    watch.cost = Cost(watch.cost.wall_sec, watch.cost.peak_rss_bytes, joules, watch.cost.series)


def _tree() -> tuple[int, float]:
    """Resident bytes and CPU seconds of this process and all below it, as far as they can be
    read."""
    import psutil

    rss_bytes, cpu_sec = 0, 0.0
    own = psutil.Process(os.getpid())
    processes = [own]
    with suppress(OSError):  # no file handle is left: what is measured tells it better
        processes += own.children(recursive=True)
    for process in processes:
        try:
            with process.oneshot():
                rss_bytes += process.memory_info().rss
                times = process.cpu_times()
        except (psutil.Error, OSError):  # it ended between the two looks
            continue
        cpu_sec += times.user + times.system
    return rss_bytes, cpu_sec


def _thinned(
    points: list[tuple[float, int, float]],
) -> tuple[tuple[float, int, float], ...]:
    """At most `_MOST_POINTS`: of neighbours the one with the most memory stays."""
    step = -(-len(points) // _MOST_POINTS)
    groups = [points[i : i + step] for i in range(0, len(points), step)]
    return tuple(max(group, key=lambda point: point[1]) for group in groups)
