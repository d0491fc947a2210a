"""Stage `onnx-encoder-quantize`: an FP32 ONNX encoder in one of the INT8 variants.

onnx-encoder → onnx-encoder with the same tokenizer and facts. `exclude` names nodes that stay in
FP32 (`onnx-encoder-sensitivity` finds which); `int8-static` takes calibration texts.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError, near_names
from common.files import require_free_bytes, write_json
from runtimes.ort import model_bytes
from runtimes.ort_encoder import FACTS, MODEL, TAG, OrtEncoder, open_encoder, read_facts
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.export.onnx.encoder_data import read_examples
from toolchain.export.onnx.encoder_export import FORMAT
from toolchain.export.onnx.encoder_variants import VARIANTS, Request, quantizable_nodes
from toolchain.export.onnx.graph_file import load_graph
from toolchain.stage import Input, StageConfig

NAME = "onnx-encoder-quantize"
VERSION = 1
TOOLS = ("numpy", "onnx", "onnxruntime", "tokenizers")
CALIBRATION_LEAST = 32
_CALIBRATION_MOST = 256
_CALIBRATION_BATCH = 8

VariantName = Literal["int8-dynamic", "int8-block", "int8-static"]


class Config(StageConfig):
    """`exclude` are node names. `embeddings`: INT8 embeddings too where the variant can.
    `reduce_range` keeps weights to 7 bits, for CPUs whose INT8 products saturate
    (`runtimes.cpu_int8.int8_support`)."""

    variant: VariantName
    exclude: tuple[str, ...] = ()
    embeddings: bool = True
    reduce_range: bool = False
    calibration: Input | None = None


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Quantize into `out_dir`. Raises `UserError` for an unknown node and for calibration data
    that the variant needs and that are missing, empty, too few or without the column."""
    from toolchain.export.onnx.encoder_graph import save

    require_source(source)
    start = time.perf_counter()
    batches = _calibration_batches(source, config)
    require_free_bytes(out_dir, model_bytes(source.path / MODEL), "the quantized model")
    model = load_graph(source.path / MODEL)
    nodes = quantizable_nodes(model, embeddings=uses_embeddings(config))
    _require_known(config.exclude, nodes)
    save(quantized(model, config, batches), out_dir)
    for name in source.files:
        if not name.startswith(MODEL) and name != FACTS:
            shutil.copyfile(source.path / name, out_dir / name)
    facts = dataclasses.replace(read_facts(source.path), variant=config.variant)
    write_json(out_dir / FACTS, dataclasses.asdict(facts))
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, *([config.calibration.digest] if config.calibration else [])],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={
            "variant": config.variant,
            "size_bytes": model_bytes(out_dir / MODEL),
            "quantized_nodes": len(nodes) - len(config.exclude),
            "fp32_nodes": list(config.exclude),
            "calibration_texts": sum(len(batch["input_ids"]) for batch in batches),
            "wall_sec": round(time.perf_counter() - start, 3),
        },
    )


def quantized(model: Any, config: Config, batches: Sequence[Mapping[str, Any]] = ()) -> Any:
    """The model in the config's variant, in memory; `model` itself stays as it is."""
    import onnx

    own = onnx.ModelProto()
    own.CopyFrom(model)  # the quantizers change what they are given
    variant = VARIANTS[config.variant]
    request = Request(
        model=own,
        exclude=config.exclude,
        embeddings=uses_embeddings(config),
        reduce_range=config.reduce_range and variant.reduce_range,
        batches=batches,
    )
    return variant.make(request)


def uses_embeddings(config: Config) -> bool:
    """Whether the result has INT8 embeddings."""
    return config.embeddings and VARIANTS[config.variant].embeddings


def require_source(source: Artifact) -> None:
    """Raise unless the artifact is an FP32 ONNX encoder."""
    if source.format != FORMAT or source.measurements.get("variant", "fp32") != "fp32":
        raise UserError(
            f"{source.path} is no FP32 ONNX encoder", "export the checkpoint first, then quantize"
        )


def calibration_batches(model: OrtEncoder, file: Path) -> list[dict[str, Any]]:
    """Batches of the file's first texts, by length. Raises `UserError` when they do not do."""
    examples = read_examples(file, model.facts, purpose="calibration", least=CALIBRATION_LEAST)
    if model.facts.task == TAG:
        encodings = model.encode_words(examples.words[:_CALIBRATION_MOST])
    else:
        encodings = model.encode(examples.texts[:_CALIBRATION_MOST])
    encodings.sort(key=lambda encoding: len(encoding.ids))
    starts = range(0, len(encodings), _CALIBRATION_BATCH)
    return [model.inputs_of(encodings[at : at + _CALIBRATION_BATCH]) for at in starts]


def _calibration_batches(source: Artifact, config: Config) -> list[dict[str, Any]]:
    if not VARIANTS[config.variant].needs_calibration:
        return []
    if config.calibration is None:
        raise UserError(
            f"{config.variant} needs calibration data: texts like those that the model will see",
            f"give a JSON lines file with a column 'text', {CALIBRATION_LEAST} rows or more, "
            "or take int8-dynamic",
        )
    with open_encoder(source.path) as model:
        return calibration_batches(model, config.calibration.path)


def _require_known(exclude: Sequence[str], nodes: Sequence[str]) -> None:
    unknown = [name for name in exclude if name not in nodes]
    if unknown:
        near = near_names(unknown[0], nodes).partition(" (known")[0]
        raise UserError(f"the model has no quantizable node '{unknown[0]}'", near)
