"""Stage `onnx-smooth`: fold activation outliers of a float32 decoder into its weights, if it helps.

    onnx (FP32) → onnx (FP32): the same function, quantizing better

The strength alpha is searched on calibration text: for each, the model is quantized in the variant
asked for and compared with FP32. The source's own files are kept when none lowers the mean KLD.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from common.errors import UserError
from common.files import require_free_bytes
from common.scratch import ScratchFolder
from runtimes.ort import open_session, run_session
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.data.text import read_documents
from toolchain.evaluate.chunks import choose_chunks
from toolchain.evaluate.logits import summarize
from toolchain.evaluate.reference import Reference
from toolchain.export.onnx import variants
from toolchain.export.onnx.graph_file import (
    DATA,
    EXTERNAL_LIMIT_BYTES,
    EXTERNAL_OVER_BYTES,
    GRAPH,
    graph_bytes,
    load_graph,
    save_graph,
)
from toolchain.export.onnx.int8_graph import Int8Graph
from toolchain.export.onnx.quantize import quantize_graph
from toolchain.export.onnx.smooth_graph import find_folds, smooth
from toolchain.model_kinds import onnx as onnx_kind
from toolchain.models import OpenOptions
from toolchain.stage import Input, StageConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "onnx-smooth"
VERSION = 2
TOOLS = ("numpy", "onnx", "onnxruntime")
FORMAT = "onnx"


class Config(StageConfig):
    """`calibration` is text (documents parted by `<|document|>` lines, or `.jsonl`), of which at
    most `max_tokens` are run; `variant` and `reduce_range` what will be quantized to, `alphas` what
    is tried."""

    calibration: Input
    variant: str = "int8-mixed"
    reduce_range: bool = False
    alphas: tuple[float, ...] = (0.5, 0.7, 0.85)
    max_tokens: int = Field(1024, ge=8)
    context_tokens: int = Field(256, ge=8)
    external_over_bytes: int = Field(EXTERNAL_OVER_BYTES, ge=0, le=EXTERNAL_LIMIT_BYTES)
    seed: int = 0

    @field_validator("variant")
    @classmethod
    def _known(cls, name: str) -> str:
        return variants.variant(name).name

    @field_validator("alphas")
    @classmethod
    def _between(cls, alphas: tuple[float, ...]) -> tuple[float, ...]:
        if not alphas or not all(0 < alpha < 1 for alpha in alphas):
            raise ValueError("give one or more strengths between 0 and 1")
        return alphas


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Search, and keep the best. Raises `UserError` when the calibration text is missing or empty,
    or the source is no float32 decoder."""
    if source.format != FORMAT or source.measurements.get("precision", "FP32") != "FP32":
        raise UserError(f"{NAME} takes a float32 ONNX decoder", "smooth before quantizing")
    require_free_bytes(out_dir, 2 * graph_bytes(source.path), "the smoothed model")
    reference = _reference(source.path, config)
    largest = _largest(source.path, reference.tokens)
    klds: dict[float | None, float] = {None: _kld(source.path, reference, config, None, {})}
    if largest:
        klds |= {a: _kld(source.path, reference, config, a, largest) for a in config.alphas}
    best = min(klds, key=lambda alpha: klds[alpha])
    for name in source.files:
        if best is None or name not in (GRAPH, DATA):
            (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path / name, out_dir / name)
    folded = 0
    if best is not None:
        model = load_graph(source.path / GRAPH)
        folded = smooth(model, largest, best)
        save_graph(model, out_dir, config.external_over_bytes)
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.calibration.digest],
        versions={name: version(name) for name in TOOLS},
        measurements={
            "precision": "FP32",
            "size_bytes": graph_bytes(out_dir),
            "applied": best is not None,
            "alpha": best,
            "folded": folded,
            "calibration_tokens": sum(map(len, reference.tokens)),
            "kld_before": klds[None],
            "kld_after": klds[best],
            "tried": [{"alpha": alpha, "kld_mean": kld} for alpha, kld in klds.items()],
        },
    )


def _reference(folder: Path, config: Config) -> Reference:
    """FP32 logits of the calibration chunks, in memory: they are few."""
    import numpy as np

    if not config.calibration.path.is_file():
        raise UserError(
            f"calibration text {config.calibration.path} is missing",
            "give some thousand words of the kind that the model is for",
        )
    documents = read_documents(config.calibration.path, folder)
    options = OpenOptions(context_tokens=config.context_tokens)
    with onnx_kind.open_path(folder, options) as model:
        chunks = choose_chunks(
            [model.runtime.tokenize(text, add_special=True) for text in documents],
            context_tokens=model.context_tokens,
            max_positions=config.max_tokens,
            bos_token_id=model.bos_token_id,
            seed=config.seed,
        )
        rows = np.concatenate([model.runtime.logits(chunk)[:-1] for chunk in chunks.tokens])
    return Reference(chunks.tokens, rows, {})


def _largest(folder: Path, chunks: Sequence[Sequence[int]]) -> dict[str, NDArray[np.float32]]:
    """The largest magnitude of each channel of every value that can be smoothed."""
    import numpy as np
    from onnx import TensorProto, helper

    from runtimes.ort_cache import OrtSequences
    from runtimes.ort_graph import decoder_graph

    model = load_graph(folder / GRAPH, weights=False)
    names = [fold.value for fold in find_folds(model)]
    if not names:
        return {}
    for name in names:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    found: dict[str, NDArray[np.float32]] = {}
    # Beside the original: references to external data hold relative to the graph's own place.
    with ScratchFolder("smooth") as made:
        file = Path(made) / GRAPH
        save_graph(model, file.parent, EXTERNAL_LIMIT_BYTES)
        for path in folder.iterdir():
            if path.name != GRAPH and path.is_file():
                _link(path, file.parent / path.name)
        session = open_session(file)
        graph = decoder_graph(session, file)
        for chunk in chunks:
            inputs = OrtSequences(session, graph, file, [chunk], 0).inputs(chunk)
            values = run_session(session, file, inputs, names)
            for name, value in zip(names, values, strict=True):
                top = np.abs(value.reshape(-1, value.shape[-1])).max(axis=0)
                found[name] = np.maximum(found.get(name, top), top)
    return found


def _link(source: Path, target: Path) -> None:
    """A second name for a file where the file system allows, else a copy."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _kld(
    folder: Path,
    reference: Reference,
    config: Config,
    alpha: float | None,
    largest: Mapping[str, Any],
) -> float:
    """Mean KLD on the calibration text of the variant, smoothed with `alpha` first."""
    graph = Int8Graph(load_graph(folder / GRAPH))
    if alpha is not None:
        smooth(graph.model, largest, alpha)
    quantize_graph(graph, variants.variant(config.variant), folder, config.reduce_range)
    with ScratchFolder("smooth") as made:
        save_graph(graph.finish(), Path(made), config.external_over_bytes)
        for path in folder.iterdir():
            if path.name not in (GRAPH, DATA) and path.is_file():
                _link(path, Path(made) / path.name)
        options = OpenOptions(context_tokens=max(map(len, reference.tokens)))
        with onnx_kind.open_path(Path(made), options) as model:
            return summarize(list(reference.compare(model.runtime.logits))).kld_mean
