"""What to expect of an option: figures of earlier builds, this model's plan, hours of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.files import read_json
from targets.schema import GIB
from toolchain.export.manifest import SCHEMA

if TYPE_CHECKING:
    from targets.planner import Candidate
    from toolchain.advise.case import Case
    from toolchain.advise.rules import Option, Rules
    from toolchain.recipe import Recipe

MANIFEST = "manifest.json"
# Tokens of a request and its answer, where the data themselves are not known yet.
_ROW_TOKENS = 128
# Operations for each parameter and token: forward, and twice that backward (arXiv:2001.08361);
# a teacher adds its forward pass.
_TRAIN_FLOP, _TEACHER_FLOP = 6, 2
# As `toolchain.train.memory` counts: weights, gradients and two moments; a frozen weight in float32
# on a CPU, in bfloat16 on a GPU.
_TRAINED_BYTES, _FROZEN_BYTES, _ROUNDED_BYTES = 16, (4, 2), 4
_SHOWN = 3


@dataclass(frozen=True)
class Built:
    """A bundle that was built before, as its manifest tells it."""

    folder: Path
    model: str
    recipe: str
    target: str
    quantization: str
    size_bytes: int
    mean_kld: float | None
    task_share: float | None


@dataclass(frozen=True)
class Estimate:
    """This model as the option would ship it, by arithmetic: nothing of it was measured."""

    quantization: str
    size_bytes: int
    total_bytes: int
    decode_tokens_per_sec: float
    training_hours: float | None


def earlier_builds(out: Path) -> tuple[list[Built], list[Path]]:
    """Bundles under `out`, and the manifests there that cannot be read (of another version, or
    damaged)."""
    found: list[Built] = []
    unreadable: list[Path] = []
    for path in sorted(out.glob(f"*/*/{MANIFEST}")):
        built = _built(path)
        if built is None:
            unreadable.append(path)
        else:
            found.append(built)
    return found, unreadable


def matching(builds: Sequence[Built], option: Option, case: Case) -> list[Built]:
    """Builds by this option's recipe: those of this model on this target first."""
    wanted = [
        built
        for built in builds
        if built.recipe == option.recipe
        and option.quantization in ("auto", built.quantization)
        and not (option.quantization == "auto" and _other_option(built, option))
    ]
    own = case.info.name
    wanted.sort(key=lambda b: (not b.model.startswith(own), b.target != case.target.name))
    return wanted[:_SHOWN]


def estimate(option: Option, recipe: Recipe, case: Case, rules: Rules) -> Estimate | None:
    """The type that ships first and fits, scaled by what a recipe prunes; None where a student
    decides the size, and where nothing fits even so."""
    if "distill" in recipe.stages and case.student and option.needs.student:
        return None
    kept = 1 - (recipe.prune.wanted_ratio or 0) if "prune" in recipe.stages else 1.0
    found = _candidate(option, case, kept)
    if found is None:
        return None
    smaller = found.size.weights_bytes * (1 - kept)
    return Estimate(
        quantization=found.size.quantization,
        size_bytes=int(found.size.weights_bytes - smaller),
        total_bytes=int(found.total_bytes - smaller),
        decode_tokens_per_sec=found.decode_tokens_per_sec / kept,
        training_hours=training_hours(recipe, case, rules),
    )


def training_hours(recipe: Recipe, case: Case, rules: Rules) -> float | None:
    """Hours that the recipe's trainings take, by operations; None where it trains nothing or there
    is no hardware. The model's own texts are counted as the calibration text."""
    trained = _trainings(recipe)
    if case.training == "none" or not trained:
        return None
    rows = case.examples * _ROW_TOKENS or recipe.export.calibration_tokens
    flop = 0.0
    for name, section in trained:
        tokens = rows * section.epochs
        if section.max_steps:
            tokens = section.max_steps * section.batch_size * (section.max_tokens or _ROW_TOKENS)
        each = _TRAIN_FLOP + (_TEACHER_FLOP if name == "distill" else 0)
        flop += tokens * each * case.info.parameters
    return flop / rules.hardware[case.training].flop_per_sec / 3600


def training_bytes(option: Option, recipe: Recipe, case: Case) -> int | None:
    """Memory of the recipe's largest training without its activations: AdamW in float32 for all
    weights or an adapter's few, a teacher, the rounded weights of a type that is trained in. None
    where it trains nothing, or a student of unknown size."""
    trained = _trainings(recipe)
    if not trained or option.needs.student:
        return None
    frozen = _FROZEN_BYTES[case.training == "gpu"]
    per_weight = [
        (frozen if section.method == "lora" else _TRAINED_BYTES)
        + (frozen if name == "distill" else 0)
        + (_ROUNDED_BYTES if getattr(section, "exact", None) else 0)
        for name, section in trained
    ]
    return max(per_weight) * case.info.parameters


def _trainings(recipe: Recipe) -> list[tuple[str, Any]]:
    """Stages that train, with their settings."""
    stages = [(name, getattr(recipe, name)) for name in recipe.stages if hasattr(recipe, name)]
    return [(name, section) for name, section in stages if hasattr(section, "max_steps")]


def _candidate(option: Option, case: Case, kept: float) -> Candidate | None:
    """The first type that fits and is fast enough, else the first that fits, with the share of the
    weights that is kept."""
    usable = case.target.memory.usable_gib * GIB
    tried = case.candidates
    if option.quantization != "auto":
        tried = tuple(c for c in case.named if c.size.quantization == option.quantization)

    def fits(found: Candidate) -> bool:
        total = found.total_bytes - found.size.weights_bytes * (1 - kept)
        return found.fits or (kept < 1 and not found.accelerator_bytes and total <= usable)

    def fast(found: Candidate) -> bool:
        limit = case.token_ms
        return limit is None or 1000 * kept / found.decode_tokens_per_sec <= limit

    fitting = [found for found in tried if fits(found)]
    return next(filter(fast, fitting), fitting[0] if fitting else None)


def _built(path: Path) -> Built | None:
    try:
        manifest = read_json(path)
        if manifest["schema"] != SCHEMA:
            return None
        gates: dict[str, Any] = {gate["name"]: gate["figure"] for gate in manifest["gates"]}
        return Built(
            folder=path.parent,
            model=str(manifest["model"]),
            recipe=str(manifest["recipe"]["name"]),
            target=str(manifest["target"]["name"]),
            quantization=str(manifest["quantization"]),
            size_bytes=int(manifest["model_file"]["size_bytes"]),
            mean_kld=gates.get("mean KLD"),
            task_share=gates.get("task score kept"),
        )
    except (UserError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _other_option(built: Built, option: Option) -> bool:
    """Whether a build by `export` took the 8-bit type, which is an option of its own."""
    return option.recipe == "export" and built.quantization == "Q8_0"
