"""Which export backend a build takes: GGUF, ONNX of a decoder, or ONNX of an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from common.errors import UserError, near_names
from targets.quantization import (
    MIXED,
    ONNX_DECODER_VARIANTS,
    ONNX_ENCODER_VARIANTS,
    ONNX_VARIANTS,
    QUANTIZATIONS,
    canonical_quantization,
)
from toolchain.layer_widths import layer_widths
from toolchain.plan import AUTO

if TYPE_CHECKING:
    from targets.schema import Target
    from toolchain.checkpoint.info import CheckpointInfo

Backend = Literal["gguf", "onnx", "onnx-encoder"]
_DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_RUNTIME_FORMATS = {"llama.cpp": "gguf", "onnxruntime": "onnx"}


def choose_backend(
    format: str, quantization: str, target: Target, info: CheckpointInfo
) -> tuple[Backend, str]:
    """The backend and the quantization's canonical name (or `auto`).

    Raises `UserError` for an unknown quantization, one of another format than asked for, and an
    encoder that is to become GGUF.
    """
    name, own = _canonical(quantization)
    if own and format not in ("auto", own):
        raise UserError(
            f"{name} is a quantization of {own}, but export.format is {format}",
            "name one of the same format, or leave export.format out",
        )
    encoder = is_encoder(info)
    chosen = own or (format if format != "auto" else "")
    chosen = chosen or ("onnx" if encoder else _RUNTIME_FORMATS[target.runtime])
    if chosen == "gguf":
        if encoder:
            raise UserError(
                f"{info.name} ({info.architecture}) is an encoder; GGUF is for decoders here",
                "leave the format out, or export.format: onnx",
            )
        return "gguf", name
    if layer_widths(info.config):
        raise UserError(
            f"{info.name} has widths per layer, which no ONNX exporter takes",
            "export.format: gguf, or prune without per_layer",
        )
    if name != AUTO and name not in variants_of(target, encoder=encoder, of_target=False):
        kind, names = ("an encoder", ONNX_ENCODER_VARIANTS) if encoder else (
            "a decoder", ONNX_DECODER_VARIANTS)  # fmt: skip
        raise UserError(f"{name} is no quantization of {kind}", f"known: {', '.join(names)}")
    return ("onnx-encoder" if encoder else "onnx"), name


def is_encoder(info: CheckpointInfo) -> bool:
    """Whether the model reads whole texts: everything that does not write one."""
    return not (info.architecture or "").endswith(_DECODERS)


def variants_of(target: Target, *, encoder: bool, of_target: bool = True) -> tuple[str, ...]:
    """ONNX variants for this kind of model: those that the target names, else all that there
    are."""
    known = ONNX_ENCODER_VARIANTS if encoder else ONNX_DECODER_VARIANTS
    wanted = tuple(name for name in target.onnx.variants if name in known)
    return wanted if of_target and wanted else known


def _canonical(name: str) -> tuple[str, str]:
    """A quantization's own spelling, and its format; `auto` has none."""
    if name.lower() == AUTO:
        return AUTO, ""
    if name.lower() == MIXED:
        return MIXED, "gguf"
    if name.lower() in ONNX_VARIANTS:
        return name.lower(), "onnx"
    known = canonical_quantization(name)
    if known is None:
        known_names = (AUTO, MIXED, *QUANTIZATIONS, *ONNX_VARIANTS)
        raise UserError(f"unknown quantization '{name}'", near_names(name, known_names))
    return known, "gguf"
