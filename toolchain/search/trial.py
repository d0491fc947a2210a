"""One trial: cheap checks first, then a file, a few tokens, all of them, and only then a speed.

A trial that cannot end within budget is pruned at the first step that shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from toolchain.search.device import Device, measure_on_device
from toolchain.search.front import within
from toolchain.search.settings import DEVICE, HERE, PLANNED, Settings
from toolchain.search.space import Point
from toolchain.search.study import KEY, RECORD, Study

if TYPE_CHECKING:
    from pathlib import Path

    from toolchain.search.candidates import Bench, Planned, Score
    from toolchain.search.speed import Runs

_SURE = 2.0  # standard errors between a few tokens' KLD and the limit before a trial is given up
_FITS = "fits"
FIXED, THREADS = "fixed_tokens_per_sec", "threads_here"


class Skipped(Exception):
    """The point gives a file that is known: nothing to measure."""


@dataclass
class Runner:
    """Runs trials of one worker. `skipped` counts points in a row that tell nothing; `free` lets
    the next one be worse than the best."""

    bench: Bench
    study: Study
    settings: Settings
    name: str
    say: Callable[[str], None]
    device: Device | None = None
    skipped: int = 0
    free: bool = False
    seen: set[tuple[tuple[str, int], ...]] = field(default_factory=set)

    def __call__(self, trial: Any) -> float:
        """The objective's figure. Raises `Skipped`, Optuna's `TrialPruned`, or `UserError`."""
        start = time.monotonic()
        indices = self.study.suggest(trial)
        point = self.study.space.at(indices)
        record: dict[str, Any] = {"point": point.as_json(), "text": point.text(), "figures": {}}
        try:
            reason = self._measured(trial, point, record)
        finally:
            record["sec"] = round(time.monotonic() - start, 3)
        self.skipped, self.free = 0, False
        record["reason"] = reason
        for name, value in self._constraints(record).items():
            trial.set_constraint(name, value)
        trial.set_user_attr(RECORD, record)
        self.say(_line(len(self.study.finished()) + 1, trial.number, record))
        if reason:
            import optuna

            raise optuna.TrialPruned(reason)
        return float(record["figures"][self.settings.figure])

    def fresh(self, indices: Mapping[str, int], *, better: bool) -> bool:
        """Whether a point is one that nobody measured, and with `better` one that may be the best;
        remembers those that are known."""
        mark = tuple(sorted(indices.items()))
        if mark in self.seen:
            return False
        try:
            planned = self.bench.plan(self.study.space.at(indices))
        except UserError:
            self.seen.add(mark)
            return False
        if planned.key in self.study.known_keys():
            self.seen.add(mark)
            return False
        return not (better and self._worse(planned))

    def _measured(self, trial: Any, point: Point, record: dict[str, Any]) -> str:
        """Fill the record step by step; why the trial ends early, or nothing."""
        figures = record["figures"]
        try:
            planned = self.bench.plan(point)
        except UserError as error:
            return _unmade(error)
        if self._exploits() and self._worse(planned):
            self.skipped += 1
            raise Skipped("worse than the best")
        self._claim(trial, planned.key)
        record["key"] = planned.key
        record["planned"] = planned.as_json()
        figures["memory_bytes"] = planned.memory_bytes
        figures["size_bytes"] = planned.size_bytes
        figures["context_tokens"] = planned.context_tokens
        if self.settings.speed == PLANNED:
            figures["decode_tokens_per_sec"] = planned.decode_tokens_per_sec
        if not planned.fits:
            return f"does not fit: {planned.reason}"
        if broken := self._broken(figures):
            return f"planned: {broken}"
        try:
            file = self.bench.make(point)
        except UserError as error:
            return _unmade(error)
        path = file.only(".gguf")
        figures["size_bytes"] = path.stat().st_size
        record["sha256"] = file.files[path.name]
        if broken := self._broken(figures):
            return broken
        if given_up := self._scored(file, planned, figures):
            return given_up
        return self._timed(path, point, planned, record)

    def _claim(self, trial: Any, key: str) -> None:
        if key in self.study.known_keys(but=trial.number):
            self.skipped += 1
            raise Skipped(key)
        trial.set_user_attr(KEY, key)

    def _exploits(self) -> bool:
        """Whether this trial is for the best alone: two of three are, once the sampler has seen
        some points. The third, as the first ones, may be anywhere on the front."""
        count = len(self.study.finished())
        return not self.free and count >= self.study.startup and count % 3 != 2

    def _worse(self, planned: Planned) -> bool:
        """Whether the planner tells that the point is no better than the best within budget: its
        figure is known before it is made."""
        name = self.settings.figure
        if name == "kld" or (name == "decode_tokens_per_sec" and self.settings.speed != PLANNED):
            return False
        good = within(self.study.records(), self.settings)
        if not good:
            return False
        best, own = good[0]["planned"][name], getattr(planned, name)
        return bool(own <= best if self.settings.maximizes else own >= best)

    def _scored(self, file: Any, planned: Planned, figures: dict[str, Any]) -> str:
        """KLD on few tokens, then on all. Where a speed is still to be measured, a KLD beyond the
        budget ends the trial."""
        quick = self.bench.score(file, planned.kv_cache_type, quick=True)
        limit = self.settings.budget.max_kld
        figures["kld_quick"] = quick.kld
        if limit is not None and quick.kld - _SURE * quick.stderr > limit:
            return (
                f"KLD {quick.kld:.4g} on {quick.positions} tokens, budget {limit:g}: given up early"
            )
        score: Score = self.bench.score(file, planned.kv_cache_type, quick=False)
        figures["kld"] = score.kld
        figures["kld_stderr"] = score.stderr
        figures["top1_agreement"] = score.top1_agreement
        if limit is not None and score.kld > limit and self.settings.needs_speed:
            return f"KLD {score.kld:.4g}, budget {limit:g}"
        return ""

    def _timed(self, path: Path, point: Point, planned: Planned, record: dict[str, Any]) -> str:
        figures = record["figures"]
        if self.settings.needs_speed and self.settings.speed == HERE:
            from toolchain.search.speed import time_pair

            fixed = fixed_runs(self.bench, self.study)
            own = self._runs(path, point, planned, fixed.threads)
            with self.bench.timing():
                timed = time_pair(own, fixed)
            figures["decode_tokens_per_sec"] = timed.ratio * float(self.study.noted(FIXED))
            record["timed"] = vars(timed)
        elif self.settings.needs_speed and self.settings.speed == DEVICE:
            assert self.device is not None
            with self.bench.timing():
                there = measure_on_device(
                    self.device, self.bench.target, planned, path, point.threads, self.name
                )
            figures["decode_tokens_per_sec"] = there.decode_tokens_per_sec
            record["on_device"] = vars(there)
        return ""

    def _runs(self, path: Path, point: Point, planned: Planned, threads: int) -> Runs:
        from toolchain.search.speed import Runs

        return Runs(path, planned.kv_cache_type, point.threads or threads)

    def _broken(self, figures: Mapping[str, Any]) -> str:
        """The limits that are broken already, in words; the KLD is judged by itself."""
        found = [x for x in self.settings.budget.broken(figures) if x.name != "max_kld"]
        return "; ".join(f"{x.figure} {figures[x.figure]:.6g}, {x.name} {x.value:g}" for x in found)

    def _constraints(self, record: Mapping[str, Any]) -> dict[str, float]:
        """How far beyond each limit, for the sampler; 0 or less is within."""
        figures = dict(record["figures"])
        figures.setdefault("kld", figures.get("kld_quick"))
        planned = record.get("planned")
        found = {
            limit.name: limit.violation(float(figures[limit.figure]))
            for limit in self.settings.budget.limits()
            if figures.get(limit.figure) is not None
        }
        found[_FITS] = 0.0 if planned and planned["fits"] else 1.0
        return found


def fixed_runs(bench: Bench, study: Study) -> Runs:
    """The file that candidates are timed against: the checkpoint in the target's first type."""
    from toolchain.search.speed import Runs

    file = bench.make(bench.original).only(".gguf")
    return Runs(file, "f16", int(study.noted(THREADS)))


def _unmade(error: UserError) -> str:
    """Why a point cannot be made. A full disk or memory is no property of the point."""
    if error.problem.startswith("not enough"):
        raise error
    return f"cannot be made: {error.problem}"


def _line(count: int, number: int, record: Mapping[str, Any]) -> str:
    figures, head = record["figures"], f"{count:3d}. trial {number}: {record['text']}"
    if record["reason"]:
        return f"{head}: pruned, {record['reason']}"
    told = [f"KLD {figures['kld']:.4g}", f"{figures['size_bytes'] / 1e6:.4g} MB"]
    if figures.get("decode_tokens_per_sec"):
        told.append(f"{figures['decode_tokens_per_sec']:.4g} tokens/s")
    return f"{head}: {', '.join(told)}"
