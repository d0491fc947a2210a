"""Candidates made and measured: planned by arithmetic, built from the build's own stages, scored.

    bench = Bench(request, base, texts, settings, ...)
    planned = bench.plan(point)          # makes the pruned checkpoint once for a ratio
    file = bench.make(point)             # a GGUF once for a type
    figures = bench.score(file, planned.kv_cache_type, quick=True)

Stages lie where a build by the candidate's recipe looks for them, so that building the best one
makes nothing again. Workers of one machine take turns at making, and nobody else computes while a
speed is timed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import sha256_json
from common.locks import turn
from toolchain.search.recipes import parsed, recipe_data
from toolchain.search.settings import Settings
from toolchain.search.space import Point
from toolchain.search.texts import SearchTexts

if TYPE_CHECKING:
    from targets.planner import Candidate, Plan
    from targets.schema import Target
    from toolchain.artifact import Artifact
    from toolchain.job import BuildRequest, Job
    from toolchain.stage import Input

Say = Callable[[str], None]
_MAKING, _TIMING = ".search-making.lock", ".search-timing.lock"


@dataclass(frozen=True)
class Planned:
    """What the planner says of a point, for the target. `key` is the same for points that give the
    same file run the same way."""

    key: str
    size_bytes: int
    memory_bytes: int
    decode_tokens_per_sec: float
    fits: bool
    reason: str
    context_tokens: int
    kv_cache_type: str
    bits_per_weight: float

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Score:
    """KLD to the unquantized original in nats, and how sure that is."""

    kld: float
    stderr: float
    top1_agreement: float
    positions: int


@dataclass
class Bench:
    """What all candidates of a search share. `root` is where locks lie; jobs by ratio and plans are
    kept. `types` are planned together: llama.cpp's answer for all costs as much as for one."""

    request: BuildRequest
    target: Target
    base: Mapping[str, Mapping[str, Any]]
    texts: SearchTexts
    settings: Settings
    root: Path
    say: Say
    types: tuple[str, ...] = ()
    _jobs: dict[float, Job] = field(default_factory=dict)
    _plans: dict[Point, Planned] = field(default_factory=dict)

    @property
    def snap_type(self) -> str:
        """The type whose blocks pruned widths fit: the target's first, as in a build."""
        return self.target.quantization[0]

    @property
    def original(self) -> Point:
        """The checkpoint as it came, in the target's first type."""
        return Point(self.snap_type)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Work that other workers may do at the same time, but not while one of them times."""
        with turn(self.root / _TIMING, shared=True):
            yield

    @contextlib.contextmanager
    def timing(self) -> Iterator[None]:
        """Work during which no other worker of this machine computes."""
        with turn(self.root / _TIMING):
            yield

    def job(self, point: Point) -> Job:
        """The build that the point's recipe asks for, on its checkpoint. Raises `UserError` where a
        ratio cannot be met."""
        from toolchain.job import run_by, settle_recipe

        data = recipe_data(point, self.base, str(self.texts.fit_file), self.snap_type)
        recipe = parsed(data).model_copy(update={"ledger": False})  # it reads the evaluation text
        if point.prune_ratio not in self._jobs:
            job = settle_recipe(self.request, recipe)
            self._jobs[point.prune_ratio] = self._pruned(job) if point.prune_ratio else job
        known = self._jobs[point.prune_ratio]
        return dataclasses.replace(
            known,
            recipe=recipe,
            target=run_by(recipe, self.target),
            quantization=point.quantization,
        )

    def plan(self, point: Point) -> Planned:
        """Size, memory and speed on the target. Raises `UserError` for a type that is unknown and a
        ratio that cannot be met."""
        if point not in self._plans:
            types = dict.fromkeys((*self.types, point.quantization))
            alike = [dataclasses.replace(point, quantization=name) for name in types]
            self._plans |= dict(zip(alike, self._planned(alike), strict=True))
        return self._plans[point]

    def share_plans(self, other: Bench) -> None:
        """Take over what a bench of the same model, target and texts planned."""
        self._plans |= other._plans

    def make(self, point: Point) -> Artifact:
        """The GGUF, with the stages and keys of a build."""
        from toolchain.export.gguf.export import importance_matrix, quantized_file, unquantized_file

        job = self.job(point)
        with self.computing(), turn(self.root / _MAKING):
            unquantized_file(job, self.say)
            if job.recipe.export.imatrix:
                importance_matrix(job, job.source, self.say)
            with contextlib.redirect_stderr(io.StringIO()):  # a bar and a warning for each trial
                return quantized_file(job, point.quantization, _silent)

    def score(self, file: Artifact, kv_cache_type: str, *, quick: bool) -> Score:
        """KLD on the search's part of the calibration text."""
        fidelity = self.settings.fidelity
        tokens = fidelity.quick_tokens if quick else fidelity.tokens
        job = self.job(self.original)
        text = self._text(job, self.texts.score)
        return self._scored(job, file, kv_cache_type, text, tokens)

    def held_out(self, file: Artifact, kv_cache_type: str) -> Score:
        """KLD on the evaluation text, which no trial sees: for the best candidate, at the end."""
        job = self.job(self.original)
        text = self._text(job, self.texts.evaluation)
        return self._scored(job, file, kv_cache_type, text, job.recipe.evaluate.max_tokens)

    def _text(self, job: Job, source: Any) -> Input:
        from toolchain.chain import text_input

        return text_input(job, source)

    def _scored(
        self, job: Job, file: Artifact, kv_cache_type: str, text: Input, tokens: int
    ) -> Score:
        from toolchain.export.gguf.export import unquantized_file
        from toolchain.pipeline import run_stage
        from toolchain.search import divergence, reference
        from toolchain.stage import Input

        with self.computing():
            with turn(self.root / _MAKING):
                original = unquantized_file(job, self.say)
                wanted = reference.Config(
                    text=text,
                    max_tokens=tokens,
                    context_tokens=self.settings.fidelity.context_tokens,
                )
                held = run_stage(reference, original, wanted, job.workspace, _silent)
            config = divergence.Config(
                reference=Input.of_artifact(held), kv_cache_type=kv_cache_type
            )
            found = run_stage(divergence, file, config, job.workspace, _silent).measurements
        return Score(
            kld=float(found["kld_mean"]),
            stderr=float(found["kld_stderr"]),
            top1_agreement=float(found["top1_agreement"]),
            positions=int(found["positions"]),
        )

    def _pruned(self, job: Job) -> Job:
        """The job on the checkpoint that its recipe's prune leaves: made once for a ratio."""
        from toolchain.chain import run_chain

        with self.computing(), turn(self.root / _MAKING):
            return run_chain(job, self.say).job

    def _planned(self, points: Sequence[Point]) -> list[Planned]:
        """The plans of points that differ in their type alone."""
        from toolchain.plan import plan_with_types

        job = self.job(points[0])
        export = job.recipe.export
        plan, types = plan_with_types(
            job.info,
            job.target,
            [point.quantization for point in points],
            with_imatrix=export.imatrix,
            tensor_types=export.tensor_types,
            pure=export.pure,
        )
        return [
            _planned_point(point, plan.plan, candidate, types[point.quantization])
            for point, candidate in zip(points, plan.plan.candidates, strict=True)
        ]


def _planned_point(
    point: Point, plan: Plan, candidate: Candidate, types: Mapping[str, str]
) -> Planned:
    same = {
        "ratio": point.prune_ratio,
        "types": dict(types),
        "context": plan.context_tokens,
        "kv": plan.kv_cache_type,
        "threads": point.threads,
    }
    return Planned(
        key=sha256_json(same)[:16],
        size_bytes=candidate.size.weights_bytes,
        memory_bytes=candidate.total_bytes,
        decode_tokens_per_sec=candidate.decode_tokens_per_sec,
        fits=candidate.fits,
        reason=candidate.reason,
        context_tokens=plan.context_tokens,
        kv_cache_type=plan.kv_cache_type,
        bits_per_weight=candidate.size.bits_per_weight,
    )


def _silent(_line: str) -> None:
    """Stages that take a moment are told by their trial's line."""
