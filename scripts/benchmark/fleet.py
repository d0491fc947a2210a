"""The workers of a run: each engine's process, its threads and cores, and how busy the rest was.

Where all models fit in memory together they stay loaded, so that a round is short; else each is
loaded anew for its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from benchmark.client import WorkerClient
from benchmark.records import EngineSpec, Measurement
from common.errors import UserError
from runtimes.cores import Load, LoadWatch
from runtimes.energy import Meter, Reading, measuring
from runtimes.timed import TimedOptions

# The interpreter with its libraries, beside the model.
_PROCESS_BYTES = 600_000_000
# Threads of the engine before spin on for a moment.
_SETTLE_SEC = 0.05
_SWEEP_REPEATS = 2
# Two thread counts in a row this much slower than the best: more will not help.
_WORSE = 1.2


@dataclass
class Fleet:
    """Workers by engine name. `say` takes progress lines."""

    kind: str
    specs: Sequence[EngineSpec]
    cores: tuple[int, ...]
    options: TimedOptions
    meter: Meter | None
    free_bytes: int
    say: Callable[[str], None]
    threads: dict[str, int] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    peaks: dict[str, int] = field(default_factory=dict)
    bandwidths: dict[int, dict[int, float]] = field(default_factory=dict)
    sweeps: dict[str, dict[int, float]] = field(default_factory=dict)
    _open: dict[str, WorkerClient] = field(default_factory=dict)
    _warm: Callable[[WorkerClient], object] = lambda worker: None

    def __post_init__(self) -> None:
        need = [spec.memory_bytes + _PROCESS_BYTES for spec in self.specs]
        largest = max(self.specs, key=lambda spec: spec.memory_bytes)
        if max(need) > self.free_bytes:
            raise UserError(
                f"not enough memory for {largest.name}: about {max(need) / 1e9:.1f} GB needed, "
                f"{self.free_bytes / 1e9:.1f} GB free",
                "close other programs, leave it out (--engines), or take a smaller model",
            )
        self.keeps_loaded = sum(need) <= self.free_bytes

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker in self._open.values():
            worker.close()
        self._open.clear()

    def warm_up_with(self, warm: Callable[[WorkerClient], object]) -> None:
        """What a freshly loaded worker does before anything counts."""
        self._warm = warm

    def sweep(self, timed: Callable[[WorkerClient], float], fixed: int | None) -> None:
        """Find each engine's best thread count: the least of the times that `timed` gives.

        The least of several, since other work only ever adds to a time. With `fixed` all use that.
        """
        for spec in self.specs:
            if fixed is not None or len(self.cores) == 1:
                self.threads[spec.name] = fixed or 1
                continue
            times: dict[int, float] = {}
            for count in thread_counts(len(self.cores)):
                with self._started(spec, count) as worker:
                    times[count] = min(timed(worker) for _ in range(_SWEEP_REPEATS))
                row = Measurement("sweep", spec.name, "sec", times[count], threads=count)
                self.measurements.append(row)
                tried = list(times.values())
                if len(tried) > 2 and min(tried[-2:]) > _WORSE * min(tried):
                    break
            self.sweeps[spec.name] = times
            self.threads[spec.name] = min(times, key=lambda n: times[n])
            shown = ", ".join(f"{n}: {sec:.3f} s" for n, sec in times.items())
            self.say(f"{spec.name}: threads {self.threads[spec.name]} ({shown})")

    @contextmanager
    def turn(self, spec: EngineSpec) -> Iterator[tuple[WorkerClient, Reading]]:
        """A turn of an engine, its foreign load and energy watched; the reading is ready after."""
        worker = self._worker(spec)
        time.sleep(_SETTLE_SEC)
        watch = LoadWatch()
        watch.start(worker.pid)
        with measuring(self.meter) as reading:
            yield worker, reading
        self.loads.append(watch.stop())
        peak = int(worker.ask("memory")["peak_rss_bytes"])
        self.peaks[spec.name] = max(peak, self.peaks.get(spec.name, 0))
        if not self.keeps_loaded:
            self._open.pop(spec.name).close()

    def measure_bandwidth(self, round_: int) -> None:
        """Read bandwidth with each thread count in use, on the engines' cores: an engine's share
        of it is taken within the round, since other work lowers both."""
        with WorkerClient("memory", 1) as worker:
            for threads in sorted({1, len(self.cores), *self.threads.values()}):
                cores = list(self.cores[:threads])
                answer = worker.ask("bandwidth", threads=threads, cores=cores)
                value = float(answer["bytes_per_sec"])
                self.bandwidths.setdefault(threads, {})[round_] = value
                self.measurements.append(
                    Measurement(
                        "memory", "", "read_bandwidth_bytes_per_sec", value, round_, 0, threads
                    )
                )

    @contextmanager
    def beside(self, spec: EngineSpec) -> Iterator[WorkerClient]:
        """A worker for what is not timed."""
        yield self._worker(spec)
        if not self.keeps_loaded:
            self._open.pop(spec.name).close()

    def facts_of(self, spec: EngineSpec) -> dict[str, Any]:
        """What the engine told of its model, and the seconds that the sweep saw by thread count."""
        facts = dict(self.facts[spec.name])
        if times := self.sweeps.get(spec.name):
            facts["sweep_sec_by_threads"] = {str(n): sec for n, sec in times.items()}
        return facts

    def record(self, spec: EngineSpec, phase: str, metric: str, value: float, **at: Any) -> None:
        """Note one figure of an engine."""
        threads = self.threads[spec.name]
        self.measurements.append(
            Measurement(phase, spec.name, metric, value, threads=threads, **at)
        )

    def _worker(self, spec: EngineSpec) -> WorkerClient:
        if spec.name not in self._open:
            # Entered by hand: a kept worker is closed with the fleet.
            self._open[spec.name] = self._started(spec, self.threads[spec.name]).__enter__()
        return self._open[spec.name]

    def _started(self, spec: EngineSpec, threads: int) -> WorkerClient:
        """A worker with the model loaded and warm, pinned to the idlest cores."""
        worker = WorkerClient(spec.name, threads)
        try:
            options = replace(self.options, threads=threads, dtype=spec.dtype)
            answer = worker.load(self.kind, spec.engine, spec.path, options, self.cores[:threads])
            self.facts[spec.name] = {**answer["facts"], "pinned": answer["pinned"]}
            self.facts[spec.name]["load_sec"] = answer["load_sec"]
            self._warm(worker)
        except BaseException:
            worker.close()
            raise
        return worker


def thread_counts(cores: int) -> list[int]:
    """1, 2, 3, 4, then in larger steps, up to the number of free cores."""
    steps = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    return sorted({n for n in steps if n < cores} | {cores})


def turns(specs: Sequence[EngineSpec], round_: int) -> list[EngineSpec]:
    """The engines in the order of a round: each round begins with another one and every second
    runs backwards, so that none always follows the same neighbour."""
    order = [*specs[round_ % len(specs) :], *specs[: round_ % len(specs)]]
    return order[::-1] if round_ % 2 else order
