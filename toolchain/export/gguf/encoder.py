"""An embedding model as GGUF: what llama.cpp takes of encoders, and the stages one after the other.

    made = embedder_file(source, workspace, name="my-embedder", quantization="Q8_0", ...)

A classifier's head has no GGUF form that computes what transformers computes; it becomes ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.files import read_json
from toolchain.checkpoint.info import CheckpointInfo

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.pipeline import Workspace
    from toolchain.stage import Input

UNQUANTIZED = "F32"
_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


@dataclass(frozen=True)
class EmbedderFile:
    """The file, the proof that it is the checkpoint, and what quantization cost."""

    model: Artifact
    parity: Artifact
    loss: Artifact


def embedder_limits(info: CheckpointInfo) -> list[str]:
    """What is special about an encoder's GGUF. Raises `UserError` when there is none."""
    from toolchain.checkpoint.architectures import convertible_architectures

    name = info.architecture or ""
    if name.endswith(_HEADS):
        raise UserError(
            f"{name} gives labels, and a GGUF of it would give vectors alone", "it becomes ONNX"
        )
    if name not in convertible_architectures():
        raise UserError(f"llama.cpp has no architecture for {name}", "it becomes ONNX")
    _require_word_pieces(info)
    return ["vectors of an embedding model: edgeforge embed-gguf (a build makes ONNX)"]


def embedder_file(
    source: Artifact,
    workspace: Workspace,
    *,
    name: str,
    quantization: str,
    evaluation: Input,
    say: Callable[[str], None],
    trust_remote_code: bool = False,
) -> EmbedderFile:
    """Convert, prove, quantize, measure. Raises `UserError`, and `ParityError` when the file is not
    the checkpoint's model."""
    from toolchain.checkpoint.inspect import inspect
    from toolchain.encoder_kinds.checkpoint import task_of
    from toolchain.encoders import EMBEDDING
    from toolchain.evaluate import encoder_loss, encoder_parity
    from toolchain.export.gguf import convert, quantize
    from toolchain.pipeline import run_stage
    from toolchain.stage import Input

    embedder_limits(inspect(source.path))
    if task_of(source.path) != EMBEDDING:
        raise UserError(
            f"checkpoint {source.path} is no embedding model", "make target=… builds what it is"
        )

    def stage(module: Any, given: Artifact, config: Any) -> Artifact:
        return run_stage(module, given, config, workspace, say)

    checkpoint = Input.of_artifact(source)
    wanted = convert.Config(
        intermediate="f32", model_name=name, trust_remote_code=trust_remote_code
    )
    converted = stage(convert, source, wanted)
    proof = stage(
        encoder_parity,
        converted,
        encoder_parity.Config(
            checkpoint=checkpoint, evaluation=evaluation, trust_remote_code=trust_remote_code
        ),
    )
    model = converted
    if quantization.upper() != UNQUANTIZED:
        model = stage(quantize, converted, quantize.Config(quantization=quantization))
    measured = encoder_loss.Config(
        reference=Input.of_artifact(proof), checkpoint=checkpoint, evaluation=evaluation
    )
    return EmbedderFile(model, proof, stage(encoder_loss, model, measured))


def _require_word_pieces(info: CheckpointInfo) -> None:
    """llama.cpp's WordPiece always lowers letters and takes their accents off."""
    path = info.path / "tokenizer.json"
    found = read_json(path) if path.is_file() else {}
    if (found.get("model") or {}).get("type") != "WordPiece":
        return
    normalizer = found.get("normalizer") or {}
    if normalizer.get("lowercase") is False or normalizer.get("strip_accents") is False:
        raise UserError(
            "the WordPiece tokenizer keeps capitals or accents, which llama.cpp's does not",
            "it becomes ONNX",
        )
