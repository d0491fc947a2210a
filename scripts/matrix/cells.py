"""The cells: what is done with a family, one function each.

A cell takes the very stage that a build would run. It returns an `Outcome`; a `UserError` is a
refusal, whatever else is raised is a fault of ours or of an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from toolchain.stage import Input

if TYPE_CHECKING:
    from matrix.place import Place
    from toolchain.artifact import Artifact

GGUF_TYPES = ("F16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0")
PRUNE_AXES = ("layers", "groups", "ffn", "hidden")
ONNX_VARIANTS = ("int8-mixed", "int8-block")
ENCODER_VARIANTS = ("int8-dynamic", "int8-block", "int8-static")
# What a type may lose on random weights, in nats, chosen before the first run. A kernel that
# computes another thing is whole nats away.
MAX_KLD = {"F16": 1e-3, "Q8_0": 1e-2, "Q5_K_M": 0.1, "Q4_K_M": 0.3, "Q4_0": 0.5}
MAX_INT8_KLD = 0.1
MIN_COSINE = 0.98
_CONTEXT, _POSITIONS = 128, 400


@dataclass(frozen=True)
class Outcome:
    """What was measured, and what it is limited by."""

    figures: Mapping[str, Any] = field(default_factory=dict)
    limits: tuple[str, ...] = ()


Cell = Callable[["Place"], Outcome]


class NotHere(Exception):
    """What the cell needs is not on this machine."""


def load(place: Place) -> Outcome:
    """The checkpoint passes every rule, and torch computes finite values with it."""
    import torch

    from toolchain.hf import load_tokenizer, torch_model

    source = place.source()
    tokenizer = load_tokenizer(source.path)
    ids = torch.tensor([tokenizer(_TEXT)["input_ids"]])
    auto = {None: "AutoModelForCausalLM", "embedding": "AutoModel"}.get(
        place.row.task, "AutoModelForSequenceClassification"
    )
    with torch_model(source.path, auto_class=auto) as network:
        made = network(input_ids=ids)
    values = made.logits if hasattr(made, "logits") else made.last_hidden_state
    if not bool(torch.isfinite(values).all()):
        raise UserError("torch computes values that are not finite")
    return Outcome({"parameters": int(source.measurements["parameters"])})


def finetune(place: Place) -> Outcome:
    """One epoch of LoRA on a few rows."""
    from toolchain.checkpoint.config_facts import expert_limit

    figures = _adapter(place).measurements
    found = {"loss": figures["final_train_loss"], "steps": figures["steps"]}
    return Outcome(found, tuple(expert_limit(_config(place))))


def merge(place: Place) -> Outcome:
    """The adapter into the base, proven against peft."""
    from toolchain.compress import merge as stage

    config = stage.Config(adapter=stage.adapter_input(_adapter(place).path))
    made = place.stage(stage, place.source(), config)
    proof = made.measurements["verification"]
    limits = () if proof["status"] == "passed" else (f"proof {proof['status']}: {proof['reason']}",)
    return Outcome({"proof": proof["status"], "layers": made.measurements["merged_layers"]}, limits)


def distill(place: Place) -> Outcome:
    """One step of a student of the same family towards the model."""
    from toolchain.checkpoint.intake import open_checkpoint
    from toolchain.compress.distill import stage
    from toolchain.compress.distill.settings import Distill

    student, _ = open_checkpoint(place.folder / "student", None)
    teacher = _classifier(place) if place.row.task else place.source()
    config = stage.Config(
        data=place.data(),
        teacher=Input.of_artifact(teacher),
        settings=Distill(max_steps=1, batch_size=4),
    )
    made = place.stage(stage, student, config)
    return Outcome({"loss": made.measurements["final_train_loss"]})


def prune(place: Place, axis: str) -> Outcome:
    """A quarter of one axis, of groups a half; where heads fill the width, of both."""
    from toolchain.compress.prune import stage
    from toolchain.compress.prune.settings import Prune

    source = place.source()
    axes, ratio = _cut(source.path, axis)
    settings = Prune.model_validate(
        {"axes": axes, "ratio": ratio, "calibration_tokens": 1024, "candidates": 1,
         "snap": "none"}
    )  # fmt: skip
    config = stage.Config(text=place.text_input(), settings=settings)
    made = place.stage(stage, source, config)
    limits = (f"{' and '.join(axes)} are cut together",) if len(axes) > 1 else ()
    return Outcome({"removed": round(float(made.measurements["ratio"]), 3)}, limits)


def _cut(checkpoint: Path, axis: str) -> tuple[tuple[str, ...], float]:
    """The axes, and the share of the parameters that goes with so much of them."""
    from toolchain.checkpoint.inspect import inspect
    from toolchain.compress.prune.layout import find_layout
    from toolchain.compress.prune.shape import parameter_counter, read_shape, with_sizes

    info = inspect(checkpoint)
    layout = find_layout(info)
    shape, count = read_shape(info, layout), parameter_counter(info, layout)
    kept = {"groups": 0.5}.get(axis, 0.75)
    axes: tuple[str, ...] = (axis,)
    sizes = {axis: max(1, int(getattr(shape, axis) * kept))}
    if layout.heads_fill_hidden and axis in ("groups", "hidden") and axis in layout.axes:
        axes = tuple(name for name in ("groups", "hidden") if name in layout.axes)
        sizes = {name: int(getattr(shape, name) * kept) for name in ("groups", "hidden")}
    elif axis == "hidden":
        sizes[axis] -= sizes[axis] % (shape.groups * shape.heads_per_group)
    return axes, round(1 - count(with_sizes(shape, **sizes)) / count(shape), 4)


def prune_vocab(place: Place) -> Outcome:
    """Tokens that the text never has, with proofs of tokens and logits."""
    from toolchain.compress.prune_vocab import stage

    config = stage.Config(text=(place.text_input(),))
    made = place.stage(stage, place.source(), config)
    return Outcome({"vocabulary": made.measurements["vocabulary"]})


def sparsify(place: Place) -> Outcome:
    """2:4 zeros by Wanda's scores."""
    from toolchain.compress.sparse import stage
    from toolchain.compress.sparse.settings import Sparsify

    settings = Sparsify.model_validate({"pattern": "2:4", "calibration_tokens": 1024})
    config = stage.Config(text=place.text_input(), settings=settings)
    made = place.stage(stage, place.source(), config)
    return Outcome({"zeros": made.measurements["zero_share"]})


def gguf(place: Place) -> Outcome:
    """Converted; token ids, chat prompt, stop tokens and logits as in the checkpoint, of an encoder
    token ids and vectors."""
    if place.is_encoder:
        return _encoder_gguf(place)
    from toolchain.export.gguf.window import window_limit

    converted, proof = _proven(place)
    logits = proof.measurements["logits"]
    how = converted.measurements["pretokenizer"]
    tokens = next(g["detail"] for g in proof.measurements["gates"] if g["name"] == "token ids")
    _, *remarks = tokens.split("; ")
    limits = [*window_limit(_config(place)), *(remark for remark in remarks if remark)]
    return Outcome(
        {
            "kld": logits["kld_mean"],
            "top1": logits["top1_agreement"],
            "pre_tokenizer": f"{how['name']} ({how['how']})" if how["name"] else None,
            "scores_from_merges": converted.measurements["scores_from_merges"],
        },
        tuple(limits),
    )


def gguf_type(place: Place, name: str) -> Outcome:
    """Quantized; the file's logits (an encoder's vectors) against the unquantized one's."""
    from toolchain.evaluate import quality

    if place.is_encoder:
        return _encoder_type(place, name)
    _, proof = _proven(place)
    quantized = _quantized(place, name)
    measured = place.stage(quality, quantized, quality.Config(reference=Input.of_artifact(proof)))
    kld = float(measured.measurements["kld_mean"])
    if kld > MAX_KLD[name]:
        raise UserError(f"{name} loses {kld:.3g} nats of KLD, more than {MAX_KLD[name]:g}")
    fallen = quantized.measurements.get("fallbacks") or []
    limits = (f"{len(fallen)} tensors fall back to larger types",) if fallen else ()
    top1 = float(measured.measurements["top1_agreement"])
    return Outcome({"kld": kld, "top1": top1}, limits)


def onnx(place: Place) -> Outcome:
    """Exported in float32; logits and greedy answers as in the checkpoint."""
    exported, proof = _onnx_proven(place)
    logits = proof.measurements["logits"]
    by = exported.measurements["exporter"]
    limits: tuple[str, ...] = ()
    if by != "builder":
        tried = exported.measurements["tried"]
        limits = (f"torch's exporter: {tried[0]['reason'] if tried else by}",)
    return Outcome({"exporter": by, "max_abs_diff": logits["max_abs_diff"]}, limits)


def onnx_int8(place: Place) -> Outcome:
    """The INT8 forms; the nearest to float32 counts."""
    from toolchain.evaluate import onnx_quality
    from toolchain.export.onnx import quantize

    exported, proof = _onnx_proven(place)
    klds = {}
    for variant in ONNX_VARIANTS:
        made = place.stage(quantize, exported, quantize.Config(variant=variant))
        config = onnx_quality.Config(reference=Input.of_artifact(proof))
        measured = place.stage(onnx_quality, made, config)
        klds[variant] = float(measured.measurements["kld_mean"])
    return _within(klds)


def ollama(place: Place) -> Outcome:
    """Imported, and it answers; greedily as llama.cpp, as far as ties allow."""
    from matrix.ollama import answers

    if place.is_encoder:
        raise UserError("Ollama's own import of encoders is not proven here", "serve ONNX instead")
    _proven(place)
    found, limits = answers(_quantized(place, "Q8_0").only(".gguf"), place.folder)
    return Outcome(found, tuple(limits))


def encoder_onnx(place: Place) -> Outcome:
    """Exported in float32, proven against torch."""
    made = _encoder(place)
    gates = {gate["name"]: gate["figure"] for gate in made.measurements["gates"]}
    by = made.measurements["exporter"]
    limits = () if by == "torchscript" else (f"by torch's exporter {by}",)
    return Outcome({"exporter": by, **gates}, limits)


def encoder_int8(place: Place) -> Outcome:
    """The INT8 forms; the nearest to float32 counts."""
    from toolchain.export.onnx import encoder_check, encoder_quantize
    from toolchain.export.onnx.encoder_quality import divergence

    exported = _encoder(place)
    texts = Input.of_file(place.folder / "texts.jsonl")
    found = {}
    for variant in ENCODER_VARIANTS:
        config = encoder_quantize.Config.model_validate({"variant": variant, "calibration": texts})
        made = place.stage(encoder_quantize, exported, config)
        check = encoder_check.Config(reference=Input.of_artifact(exported), test=texts)
        measured = place.stage(encoder_check, made, check)
        found[variant] = divergence(measured.measurements["figures"])
    return _within(found)


def _within(klds: Mapping[str, float]) -> Outcome:
    """What the best variant loses; those that lose too much are limits."""
    beyond = [name for name, kld in klds.items() if kld > MAX_INT8_KLD]
    if len(beyond) == len(klds):
        worst = min(klds.values())
        raise UserError(f"every INT8 form loses more than {MAX_INT8_KLD:g} (least: {worst:.3g})")
    limits = (f"loses too much as {', '.join(beyond)}",) if beyond else ()
    return Outcome(dict(klds), limits)


def _adapter(place: Place) -> Artifact:
    from toolchain.train import finetune as stage
    from toolchain.train.settings import Finetune

    settings = Finetune(batch_size=4, epochs=1, learning_rate=1e-3, rank=4)
    return place.stage(stage, place.source(), stage.Config(data=place.data(), settings=settings))


def _classifier(place: Place) -> Artifact:
    """The teacher of an encoder: the merged fine-tuning, which has the labels."""
    from toolchain.compress import merge as stage

    config = stage.Config(adapter=stage.adapter_input(_adapter(place).path), verify=False)
    return place.stage(stage, place.source(), config)


def _proven(place: Place) -> tuple[Artifact, Artifact]:
    """The F32 GGUF and the proof that it is the checkpoint."""
    from toolchain.evaluate import parity
    from toolchain.export.gguf import convert

    source = place.source()
    converted = place.stage(
        convert, source, convert.Config(intermediate="f32", model_name=place.family)
    )
    config = parity.Config(
        checkpoint=Input.of_artifact(source),
        evaluation=place.text_input(),
        max_tokens=_POSITIONS,
        context_tokens=_CONTEXT,
    )
    return converted, place.stage(parity, converted, config)


def _quantized(place: Place, name: str) -> Artifact:
    from toolchain.export.gguf import quantize

    return place.stage(quantize, _proven(place)[0], quantize.Config(quantization=name))


def _onnx_proven(place: Place) -> tuple[Artifact, Artifact]:
    """The float32 ONNX decoder and the proof that it is the checkpoint."""
    from toolchain.evaluate import onnx_parity
    from toolchain.export.onnx import export

    source = place.source()
    exported = place.stage(export, source, export.Config())
    config = onnx_parity.Config(
        checkpoint=Input.of_artifact(source),
        evaluation=place.text_input(),
        max_tokens=_POSITIONS,
        context_tokens=_CONTEXT,
    )
    return exported, place.stage(onnx_parity, exported, config)


def _encoder(place: Place) -> Artifact:
    from toolchain.export.onnx import encoder_export

    source = place.source()
    return place.stage(encoder_export, source, encoder_export.config_for(source.path))


def _encoder_gguf(place: Place) -> Outcome:
    converted, proof = _encoder_proven(place)
    gates = {gate["name"]: gate for gate in proof.measurements["gates"]}
    _, *remarks = gates["token ids"]["detail"].split("; ")
    how = converted.measurements["pretokenizer"]
    named = f"{how['name']} ({how['how']})" if how["name"] else None
    alone = "vectors alone: a classifier's head becomes ONNX"
    limits = ([alone] if place.row.task != "embedding" else []) + remarks
    return Outcome({"cosine": gates["vectors"]["figure"], "pre_tokenizer": named}, tuple(limits))


def _encoder_type(place: Place, name: str) -> Outcome:
    from toolchain.evaluate import encoder_loss
    from toolchain.export.gguf import quantize

    converted, proof = _encoder_proven(place)
    made = place.stage(quantize, converted, quantize.Config(quantization=name))
    config = encoder_loss.Config(
        reference=Input.of_artifact(proof),
        checkpoint=Input.of_artifact(place.source(place.body)),
        evaluation=place.text_input(),
    )
    found = place.stage(encoder_loss, made, config).measurements
    if found["cosine_mean"] < MIN_COSINE:
        raise UserError(f"{name}: mean cosine {found['cosine_mean']:.4f}, below {MIN_COSINE:g}")
    fallen = made.measurements.get("fallbacks") or []
    limits = (f"{len(fallen)} tensors fall back to larger types",) if fallen else ()
    return Outcome({"cosine": found["cosine_mean"]}, limits)


def _encoder_proven(place: Place) -> tuple[Artifact, Artifact]:
    """The F32 GGUF of an encoder's body and the proof that it is the checkpoint's."""
    from toolchain.evaluate import encoder_parity
    from toolchain.export.gguf import convert

    source = place.source(place.body)
    config = convert.Config(intermediate="f32", model_name=place.family)
    converted = place.stage(convert, source, config)
    proof = encoder_parity.Config(
        checkpoint=Input.of_artifact(source), evaluation=place.text_input()
    )
    return converted, place.stage(encoder_parity, converted, proof)


def _config(place: Place) -> dict[str, Any]:
    from common.files import read_json

    found: dict[str, Any] = read_json(place.checkpoint / "config.json")
    return found


def _axis(axis: str) -> Cell:
    return lambda place: prune(place, axis)


def _type(name: str) -> Cell:
    return lambda place: gguf_type(place, name)


_TEXT = "Turn on the lamp in the kitchen and set it to 40 percent, please."
DECODER_CELLS: dict[str, Cell] = {
    "load": load,
    "finetune": finetune,
    "merge": merge,
    "distill": distill,
    **{f"prune {axis}": _axis(axis) for axis in PRUNE_AXES},
    "prune-vocab": prune_vocab,
    "sparsify": sparsify,
    "gguf": gguf,
    **{name: _type(name) for name in GGUF_TYPES},
    "onnx": onnx,
    "onnx-int8": onnx_int8,
    "ollama": ollama,
}
ENCODER_CELLS = {**DECODER_CELLS, "onnx": encoder_onnx, "onnx-int8": encoder_int8}
