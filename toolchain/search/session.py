"""Everything a search works with, settled the same way in every process of it.

session = open_session(request, say)     # raises UserError for all that can be refused at once
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError, near_names
from common.files import sha256_json
from common.folders import make_folder
from toolchain.search.candidates import Bench
from toolchain.search.device import Device
from toolchain.search.recipes import NAME, base_settings
from toolchain.search.settings import (
    DEFAULT_STUDY,
    DEFAULT_TRIALS,
    DEVICE,
    HERE,
    PLANNED,
    Settings,
)
from toolchain.search.space import (
    GROUP_TYPES,
    GROUPS,
    KV_CACHE_TYPES,
    MIX,
    MORE_TYPES,
    RATIOS,
    Space,
    ordered,
)
from toolchain.search.study import FILE, Study, sqlite_url
from toolchain.search.texts import SearchTexts, split_texts

if TYPE_CHECKING:
    from targets.schema import Target
    from toolchain.job import BuildRequest, Job

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What may vary; None takes the search's own choices, one choice fixes a dimension.
    `tensor_types` are choices by group (`mix` is the type's own mix)."""

    quantization: tuple[str, ...] | None = None
    tensor_types: Mapping[str, tuple[str, ...]] | None = None
    prune: tuple[float, ...] | None = None
    context: tuple[int, ...] | None = None
    kv_cache: tuple[str, ...] | None = None
    threads: tuple[int, ...] | None = None


@dataclass(frozen=True)
class SearchRequest:
    """What the user asked for. `trials` counts those of the whole study, earlier runs included."""

    build: BuildRequest
    settings: Settings
    wanted: Wanted = Wanted()
    trials: int = DEFAULT_TRIALS
    workers: int = 1
    storage: str | None = None
    study: str = DEFAULT_STUDY
    device: Device | None = None


@dataclass
class Session:
    """A search, settled: `folder` holds its results, `roots` are the folders that it writes to."""

    request: SearchRequest
    target: Target
    job: Job
    space: Space
    texts: SearchTexts
    bench: Bench
    study: Study
    folder: Path
    roots: tuple[Path, ...]
    bound: Mapping[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return self.request.settings


def open_session(request: SearchRequest, say: Say) -> Session:
    """Settle model, target, texts, space and study. Raises `UserError`; writes the two parts of the
    calibration text and the study's database."""
    from targets.registry import load_target
    from toolchain.data.text import calibration_text
    from toolchain.job import run_by, settle_recipe
    from toolchain.recipe import load_recipe

    base = load_recipe(request.build.recipe, request.build.data)
    target = run_by(base, load_target(request.build.target))
    shared = base_settings(base)
    job = settle_recipe(request.build, base)
    if job.backend != "gguf":
        raise UserError(
            f"a search makes GGUF files, and {job.name} on {target.name} becomes {job.backend}",
            "take a decoder, and a target whose runtime is llama.cpp; auto already measures the "
            "INT8 variants of ONNX (edgeforge build)",
        )
    space = space_of(job, target, request.wanted, request.settings, shared)
    folder = job.workspace.root / f"{target.name}-{request.study}"
    whole = calibration_text(job.base.path, base.export.calibration)
    texts = split_texts(whole, job.texts.evaluation, folder)
    bound = _bound(request, job, target, shared, space, texts)
    make_folder(folder)
    url = request.storage or sqlite_url(folder / FILE)
    study = Study(url, f"{job.name}-{target.name}-{request.study}", request.settings, space, bound)
    bench = Bench(
        request.build,
        target,
        shared,
        texts,
        request.settings,
        job.workspace.root,
        say,
        space.choices["quantization"],
    )
    pruned = job.workspace.root.with_name(f"{job.workspace.root.name}-{NAME}")
    cuts = any(ratio > 0 for ratio in space.choices["prune_ratio"])
    roots = (job.workspace.root, *((pruned,) if cuts else ()))
    return Session(request, target, job, space, texts, bench, study, folder, roots, bound)


def space_of(
    job: Job,
    target: Target,
    wanted: Wanted,
    settings: Settings,
    shared: Mapping[str, Mapping[str, Any]],
) -> Space:
    """The choices of every dimension: those that were named, else those that can matter for the
    objective (a KV cache's type changes no file); None leaves it to the target. Raises `UserError`
    for unknown names and choices that exclude each other."""
    from targets.planner import usable_kv_cache_type
    from toolchain.plan import model_shape, predicted_tensors, type_sizes

    types = _types(target, wanted.quantization)
    sizes = {s.quantization: s.weights_bytes for s in type_sizes(job.info, types)}
    shape = model_shape(job.info)
    predicted, _ = predicted_tensors(job.info, types[:1])
    names = [tensor.name for tensor in next(iter(predicted.values()))]
    kv = wanted.kv_cache or (() if settings.objective == "size" else KV_CACHE_TYPES)
    usable = {usable_kv_cache_type(name, shape.key_dim, shape.value_dim) for name in kv}
    contexts = {min(c, shape.context_tokens or c) for c in wanted.context or ()}
    if settings.speed == PLANNED and wanted.threads:
        raise UserError(
            "threads change no figure of the planner",
            "measure speeds: --speed here, or --host USER@HOST; or leave --threads out",
        )
    return Space(
        {
            "quantization": ordered(types, sizes),
            "prune_ratio": _ratios(job, target, shared, wanted.prune),
            **_groups(names, wanted.tensor_types),
            "kv_cache_type": tuple(sorted(usable, key=KV_CACHE_TYPES.index)) or (None,),
            "context_tokens": tuple(sorted(contexts)) or (None,),
            "threads": tuple(sorted(wanted.threads)) if wanted.threads else (None,),
        }
    )


def _types(target: Target, named: tuple[str, ...] | None) -> list[str]:
    from runtimes.quantizer import canonical_quantization

    wanted = named or (*MORE_TYPES, *target.quantization)
    return list(dict.fromkeys(canonical_quantization(name) for name in wanted))


def _ratios(
    job: Job,
    target: Target,
    shared: Mapping[str, Mapping[str, Any]],
    wanted: tuple[float, ...] | None,
) -> tuple[float, ...]:
    """The ratios that the model has legal shapes for. Raises `UserError` for one that was named and
    has none."""
    from toolchain.compress.prune.candidates import find_candidates
    from toolchain.compress.prune.layout import find_layout
    from toolchain.compress.prune.settings import Prune

    possible = []
    for ratio in sorted(set(RATIOS if wanted is None else wanted)):
        own = {**shared.get("prune", {}), "ratio": ratio, "quantization": target.quantization[0]}
        try:
            if ratio:
                find_candidates(job.info, find_layout(job.info), Prune.model_validate(own))
            possible.append(ratio)
        except UserError as error:
            if wanted is not None:
                raise UserError(f"--prune {ratio:g}: {error.problem}", error.mend) from None
    return tuple(possible)


def _groups(
    names: list[str], wanted: Mapping[str, tuple[str, ...]] | None
) -> dict[str, tuple[str, ...]]:
    """Choices of the groups whose tensors the model has."""
    import re

    from runtimes.quantizer import tensor_type_number

    unknown = [group for group in wanted or {} if group not in GROUPS]
    if unknown:
        raise UserError(f"no group of tensors: '{unknown[0]}'", near_names(unknown[0], GROUPS))
    found = {}
    for group, pattern in GROUPS.items():
        if not any(re.search(pattern, name) for name in names):
            if group in (wanted or {}):
                raise UserError(
                    f"the model has no tensors of the group '{group}' ({pattern})",
                    "tied embeddings are the output too: name embedding"
                    if group == "output"
                    else "leave it out of --tensor-types",
                )
            continue
        choices = GROUP_TYPES if wanted is None else wanted.get(group, (MIX,))
        named = [c if c == MIX else c.upper() for c in choices]
        for name in named:
            if name != MIX:
                tensor_type_number(name)
        found[group] = tuple(dict.fromkeys(named))
    return found


def _bound(
    request: SearchRequest,
    job: Job,
    target: Target,
    shared: Mapping[str, Any],
    space: Space,
    texts: SearchTexts,
) -> dict[str, str]:
    """What the trials of a study have in common, by name."""
    from importlib.metadata import version

    from runtimes.environment import installed_version
    from toolchain.up_to_date import TOOLS

    settings = request.settings
    limits = ", ".join(f"{x.name} {x.value:g}" for x in settings.budget.limits())
    digests = [text.digest for text in (texts.fit, texts.score, texts.evaluation)]
    tools = {name: installed_version(name) for name in TOOLS}
    return {
        "model": _short(job.base.digest),
        "target": f"{target.name} {_short(sha256_json(target.model_dump(mode='json')))}",
        "texts": _short(sha256_json(digests)),
        "objective and budget": f"{settings.objective}, {limits or 'no limit'}",
        "scored tokens": f"{settings.fidelity.quick_tokens}, {settings.fidelity.tokens}",
        "speed": _where(request),
        "choices": _short(sha256_json(space.as_json())),
        "recipe": _short(sha256_json(shared)),
        "version": f"{version('edgeforge')} {_short(sha256_json(tools))}",
    }


def _where(request: SearchRequest) -> str:
    """Where speeds come from: figures of different machines are not compared."""
    from runtimes.host import read_host

    if request.settings.speed == DEVICE:
        assert request.device is not None
        return f"device {request.device.host}"
    if request.settings.speed == HERE:
        return f"a machine with {read_host().cpu_model}"
    return "the planner"


def _short(digest: str) -> str:
    return digest[:12]
