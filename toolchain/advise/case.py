"""A case to advise on: what was answered, and what the model's plan on the target says of it.

    case = settle_case(answers, model="demo", target="jetson", student=None)

Everything that contradicts is refused at once, before the model is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from toolchain.advise.questions import QUESTIONS
from toolchain.advise.rules import Device, Goal, Hardware, Quality, Rules

if TYPE_CHECKING:
    from targets.planner import Candidate
    from targets.schema import Target
    from toolchain.backend import Backend
    from toolchain.checkpoint.info import CheckpointInfo

# From here on a machine without an accelerator is a server (the smallest servers that are sold).
_SERVER_GIB = 60
_ANDROID = "-DANDROID_"


@dataclass(frozen=True)
class Case:
    """What rules look at; names as in `rules.When`. `assumed` are questions nobody answered.
    `candidates` is what `auto` tries on the target, in order of preference, `named` the types that
    options name; `memory_gib` None: what the target has to spare."""

    goal: Goal
    quality: Quality
    device: Device
    training: Hardware
    labelled: int
    unlabelled: int
    memory_gib: float | None
    token_ms: float | None
    training_gib: float | None
    hours: float | None
    target: Target
    target_named: str
    model: str
    student_named: str | None
    info: CheckpointInfo
    backend: Backend
    candidates: tuple[Candidate, ...]
    named: tuple[Candidate, ...]
    assumed: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "encoder" if self.backend == "onnx-encoder" else "decoder"

    @property
    def examples(self) -> int:
        return self.labelled + self.unlabelled

    @property
    def student(self) -> bool:
        return self.student_named is not None

    @property
    def fits(self) -> bool:
        return any(c.fits for c in self.candidates)

    @property
    def fits_8_bit(self) -> bool:
        return any(c.fits and c.size.quantization == "Q8_0" for c in self.named)

    @property
    def fast_enough(self) -> bool:
        """Whether a type that fits meets the latency, by estimate; without a limit all do."""
        if self.token_ms is None or not self.fits:
            return True
        return any(c.fits and meets(c, self.token_ms) for c in self.candidates)


def meets(candidate: Candidate, token_ms: float) -> bool:
    """Whether a token takes at most so long, by the plan's estimate."""
    return 1000 / candidate.decode_tokens_per_sec <= token_ms


def settle_case(
    answers: Mapping[str, Any], *, model: str, target: str | None, student: str | None, rules: Rules
) -> Case:
    """The case, with defaults for what nobody answered.

    Raises `UserError` for answers that contradict each other, an unknown target, and a model that
    cannot be planned.
    """
    from targets.registry import load_target
    from toolchain.checkpoint.inspect import inspect
    from toolchain.checkpoint.locate import headers_of
    from toolchain.checkpoint.validate import validate

    settled = _settled(answers)
    named = target or rules.targets[settled["device"]]
    device = load_target(named)
    _refuse_contradictions(answers, device if target else None)
    if target:
        settled["device"] = device_of(device)
    if (spare := settled["memory_gib"]) is not None:
        _refuse_memory(spare, device)
        device = _with_memory(device, spare)
    with headers_of(model) as path:
        info = inspect(path)
        validate(info, deep=False)
        backend, candidates, named_types = _planned(info, device, rules)
    unsaid = [q.name for q in QUESTIONS if q.name not in answers and settled[q.name] is not None]
    return Case(
        **settled,
        target=device,
        target_named=named,
        model=model,
        student_named=student,
        info=info,
        backend=backend,
        candidates=candidates,
        named=named_types,
        assumed=tuple(name for name in unsaid if name != "device" or not target),
    )


def device_of(target: Target) -> Device:
    """The kind of device that a target is, by its own figures."""
    if target.accelerator.memory == "separate":
        return "server-gpu"
    if any(flag.startswith(_ANDROID) for flag in target.llama_cpp_build):
        return "phone"
    large = target.memory.usable_gib >= _SERVER_GIB and target.accelerator.kind == "none"
    return "server-cpu" if large else "edge"


def _settled(answers: Mapping[str, Any]) -> dict[str, Any]:
    return {q.name: answers.get(q.name, q.default) for q in QUESTIONS}


def _refuse_contradictions(answers: Mapping[str, Any], target: Target | None) -> None:
    faults = []
    if target is not None and answers.get("device") not in (None, device_of(target)):
        faults.append(
            f"--device {answers['device']} and --target {target.name}, which is {device_of(target)}"
        )
    hours = answers.get("hours")
    if hours == 0 and answers.get("training") in ("cpu", "gpu"):
        faults.append(f"--hours 0 and --training {answers['training']}")
    if hours and answers.get("training") == "none":
        faults.append(f"--hours {hours:g} and --training none")
    if (held := answers.get("training_gib")) and answers.get("training") == "none":
        faults.append(f"--training-gib {held:g} and --training none")
    if answers.get("token_ms") == 0:
        faults.append("--token-ms 0: no model answers in no time")
    if answers.get("memory_gib") == 0:
        faults.append("--memory-gib 0: no model takes no memory")
    if faults:
        raise UserError(f"contradictory flags: {'; '.join(faults)}", "leave one of each pair out")


def _refuse_memory(memory_gib: float, target: Target) -> None:
    limit = target.memory.total_gib + (target.accelerator.memory_gib or 0)
    if memory_gib > limit:
        raise UserError(
            f"contradictory flags: --memory-gib {memory_gib:g}, but {target.name} has {limit:g}",
            "name less, or another --target",
        )


def _with_memory(target: Target, memory_gib: float) -> Target:
    """The target with so much to spare; of separate memory and main memory each at most that."""
    memory = target.memory.model_copy(
        update={"usable_gib": min(memory_gib, target.memory.total_gib)}
    )
    accelerator = target.accelerator
    if accelerator.memory_gib is not None:
        least = min(memory_gib, accelerator.memory_gib)
        accelerator = accelerator.model_copy(update={"memory_gib": least})
    return target.model_copy(update={"memory": memory, "accelerator": accelerator})


def _planned(
    info: CheckpointInfo, target: Target, rules: Rules
) -> tuple[Backend, tuple[Candidate, ...], tuple[Candidate, ...]]:
    """What a build would make of the model, the types that `auto` tries, and those that options
    name (GGUF, so none for an encoder)."""
    from targets.planner import plan
    from toolchain.backend import choose_backend
    from toolchain.job import plan_for
    from toolchain.plan import AUTO, model_shape, type_sizes
    from toolchain.recipe import read_recipe

    backend, _ = choose_backend("auto", AUTO, target, info)
    tried: tuple[Candidate, ...] = ()
    if backend != "gguf":
        tried = plan_for(info, target, read_recipe(None), backend, AUTO).plan.candidates
    if backend == "onnx-encoder":
        return backend, tried, ()
    options = {option.quantization for option in rules.options.values()} - {AUTO}
    sizes = type_sizes(info, [*target.quantization, *sorted(options)])
    planned = plan(model_shape(info), target, sizes).candidates
    named = tuple(c for c in planned if c.size.quantization in options)
    return backend, tried or planned[: len(target.quantization)], named


def as_json(case: Case) -> dict[str, Any]:
    """The case as plain values."""
    named = {q.name: getattr(case, q.name) for q in QUESTIONS}
    derived = ("kind", "examples", "student", "fits", "fits_8_bit", "fast_enough")
    return {
        "model": case.info.name,
        "target": case.target.name,
        **named,
        **{name: getattr(case, name) for name in derived},
        "assumed": list(case.assumed),
    }
