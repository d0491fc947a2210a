"""From what the user gave to files that engines load; what is missing is built by the stages.

Built files lie in `work/<model>/.stages` and are found there the next time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import onnx_stages
from benchmark.bundles import bundle_graph, bundle_manifest
from benchmark.records import FP32, INT8, EngineSpec
from benchmark.settings import Request
from benchmark.shapes import make_shape
from common.errors import UserError, near_names
from common.files import read_json

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.pipeline import Workspace

TORCH = {"torch-fp32": "float32", "torch-bf16": "bfloat16"}
GGUF = {"gguf-q8_0": "Q8_0", "gguf-q4_k_m": "Q4_K_M"}
# Beside its weights an engine holds caches and activations.
_OVERHEAD = 1.2
# onnxruntime may keep packed copies of weights beside the file's.
_ONNX_OVERHEAD = 2.2


@dataclass
class Inputs:
    """What is measured. `kv_elements_per_token` is what the KV cache of a token holds;
    `max_tokens` what the model was trained for."""

    model: str
    kind: str
    specs: list[EngineSpec]
    checkpoint: Path | None
    config: Mapping[str, Any]
    manifest: Mapping[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def kv_elements_per_token(self) -> int | None:
        config = self.config
        layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
        if self.kind != "decoder" or not layers or not heads or not config.get("hidden_size"):
            return None
        width = config.get("head_dim") or config["hidden_size"] // heads
        return int(2 * layers * (config.get("num_key_value_heads") or heads) * width)

    @property
    def max_tokens(self) -> int | None:
        found = self.config.get("max_position_embeddings")
        return int(found) if found else None


def prepare(request: Request, say: Callable[[str], None]) -> Inputs:
    """Find or build every engine's file. Raises `UserError` for what is missing or damaged, and
    for an engine asked for that this model cannot have; others that cannot be had become notes."""
    name, folder = _model(request, say)
    config = _text_config(read_json(folder / "config.json"))
    kind = kind_of(config)
    manifest = bundle_manifest(request.bundle) if request.bundle else None
    # A bundle's model may lie in a stage's folder, whose name tells a reader nothing.
    name = str(manifest["model"]) if manifest and manifest.get("model") else name
    inputs = Inputs(name, kind, [], folder, config, manifest)
    table = makers(kind, request, inputs, say)
    unknown = [label for label in request.engines or () if label not in table]
    if unknown:
        raise UserError(f"unknown engine '{unknown[0]}'", near_names(unknown[0], table))
    for label, maker in table.items():
        if request.engines is not None and label not in request.engines:
            continue
        try:
            inputs.specs.append(maker())
        except UserError as error:
            if request.engines is not None or label in _given(request):
                raise
            inputs.notes.append(f"{label} is left out: {error.problem}")
            say(inputs.notes[-1])
    if not inputs.specs:
        raise UserError("no engine can run this model", details=inputs.notes)
    return inputs


def _model(request: Request, say: Callable[[str], None]) -> tuple[str, Path]:
    """Name and folder of the checkpoint."""
    from toolchain.checkpoint.locate import locate, model_name

    if request.shape and request.model:
        raise UserError("--shape and --model are two models", "give one of them")
    if request.shape:
        name = f"llama-{request.shape}"
        say(f"model {name} with random weights: its speed is real, its quality figures are not")
        return name, make_shape(request.shape, request.work.absolute() / name / "hf")
    if request.model:
        return model_name(request.model), locate(request.model)
    if request.bundle:
        raise UserError(
            f"bundle {request.bundle} does not hold the model in FP32, which INT8 is held against",
            "give --model as well: the checkpoint that the bundle was built from",
        )
    raise UserError("there is nothing to measure", "give --model or --shape")


def makers(
    kind: str, request: Request, inputs: Inputs, say: Callable[[str], None]
) -> dict[str, Callable[[], EngineSpec]]:
    """Names of the engines that this kind of model has, in the tables' order, each with what finds
    or builds its file."""
    builder = Builder(request, inputs, say)
    table: dict[str, Callable[[], EngineSpec]] = {FP32: builder.onnx_fp32, INT8: builder.onnx_int8}
    for name, dtype in TORCH.items():
        table[name] = partial(builder.torch, name, dtype)
    if kind != "decoder":
        return table
    if request.gguf:
        for path in request.gguf:
            table[gguf_name(path, table)] = partial(builder.gguf_file, path)
        return table
    for name, quantization in GGUF.items():
        table[name] = partial(builder.gguf, name, quantization)
    return table


@dataclass
class Builder:
    """Makes engine specs for one model."""

    request: Request
    inputs: Inputs
    say: Callable[[str], None]
    _source: Artifact | None = None
    _workspace: Workspace | None = None

    def onnx_fp32(self) -> EngineSpec:
        """The folder given, else the stage's export."""
        if self.request.onnx:
            return self._onnx_spec(FP32, self.request.onnx)
        return self._onnx_spec(FP32, onnx_stages.fp32(self.inputs.kind, *self._opened(), self.say))

    def onnx_int8(self) -> EngineSpec:
        """The folder given, else the bundle's file, else what the stage makes by default."""
        if self.request.int8:
            return self._onnx_spec(INT8, self.request.int8)
        if self.request.bundle:
            return self._onnx_spec(INT8, bundle_graph(self.request.bundle))
        return self._onnx_spec(INT8, onnx_stages.int8(self.inputs.kind, *self._opened(), self.say))

    def _onnx_spec(self, name: str, path: Path) -> EngineSpec:
        from runtimes.ort import model_bytes
        from runtimes.timed_ort import graph_file

        if (path / "artifact.json").is_file():
            from toolchain import artifact

            _sound(artifact.load(path))
        file = graph_file(path)
        size = model_bytes(file)
        return EngineSpec(name, "onnxruntime", file, "", size, int(size * _ONNX_OVERHEAD))

    def torch(self, name: str, dtype: str) -> EngineSpec:
        """The checkpoint itself. Its size is that of its weight files, whatever torch computes
        in."""
        folder = self._checkpoint()
        from toolchain.checkpoint.weights import find_weights

        tensors = find_weights(folder).tensors
        elements = sum(tensor.elements for tensor in tensors)
        width = 2 if dtype == "bfloat16" else 4
        return EngineSpec(
            name, "torch", folder, dtype, elements * width, int(elements * width * _OVERHEAD)
        )

    def gguf(self, name: str, quantization: str) -> EngineSpec:
        """Convert and quantize the checkpoint, without importance matrix: speed is the same."""
        from toolchain.export.gguf import convert, quantize
        from toolchain.pipeline import run_stage

        source, workspace = self._opened()
        plain = run_stage(
            convert, source, convert.Config(model_name=self.inputs.model), workspace, self.say
        )
        config = quantize.Config(quantization=quantization)
        made = run_stage(quantize, plain, config, workspace, self.say)
        return self._gguf_spec(name, made.only(".gguf"))

    def gguf_file(self, path: Path) -> EngineSpec:
        """A file that the user gave, or a stage's folder."""
        if path.is_dir():
            from toolchain import artifact

            path = _sound(artifact.load(path)).only(".gguf")
        return self._gguf_spec(gguf_name(path, {}), path)

    def _gguf_spec(self, name: str, path: Path) -> EngineSpec:
        from runtimes.gguf_file import read_tensor_types

        if not path.is_file():
            raise UserError(f"model file {path} is missing", "check the path")
        read_tensor_types(path)  # a foreign or damaged file is told now
        size = path.stat().st_size
        return EngineSpec(name, "llama.cpp", path, "", size, int(size * _OVERHEAD))

    def _checkpoint(self) -> Path:
        if self.inputs.checkpoint is None:
            raise UserError("the checkpoint is not known", "give --model")
        return self.inputs.checkpoint

    def _opened(self) -> tuple[Artifact, Workspace]:
        from toolchain.checkpoint.intake import checkpoint_for_build
        from toolchain.pipeline import Workspace

        if self._source is None or self._workspace is None:
            self._workspace = Workspace(self.request.work.absolute() / self.inputs.model)
            self._source, _ = checkpoint_for_build(self._checkpoint(), self._workspace)
        return self._source, self._workspace


def kind_of(config: Mapping[str, Any]) -> str:
    """decoder or encoder, by the architecture's name."""
    name = str((config.get("architectures") or [""])[0])
    return "decoder" if re.search(r"(ForCausalLM|LMHeadModel)$", name) else "encoder"


def gguf_name(path: Path, taken: Mapping[str, Any]) -> str:
    """`gguf-q4_k_m` of `model-Q4_K_M.gguf`; a number after it where the name is taken."""
    stem = path.stem.lower().removeprefix("model-")
    name, number = f"gguf-{stem}", 2
    while name in taken:
        name, number = f"gguf-{stem}-{number}", number + 1
    return name


def _sound(artifact: Artifact) -> Artifact:
    if damaged := artifact.damaged_files():
        raise UserError(
            f"{artifact.path} is damaged: {', '.join(damaged[:5])}", "build it again, or copy it"
        )
    return artifact


def _given(request: Request) -> set[str]:
    onnx = {FP32: request.onnx, INT8: request.int8 or request.bundle}
    given = {name for name, path in onnx.items() if path}
    return given | {gguf_name(path, {}) for path in request.gguf}


def _text_config(config: Any) -> Mapping[str, Any]:
    if not isinstance(config, dict):
        raise UserError("config.json is no JSON object", "fetch the checkpoint again")
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config
