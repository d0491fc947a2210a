"""Which type and size each tensor will have after quantization, before anything is converted.

llama.cpp's own quantizer answers: it gets a GGUF with the real header, whose tensor data are a hole
in the file, and runs dry. So the answer for an 8B model takes as long as for a small one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.scratch import ScratchFolder
from runtimes.gguf_file import type_size_bytes, write_header_only
from runtimes.quantizer import (
    QuantizeLog,
    canonical_quantization,
    quantization_names,
    run_jobs,
    tensor_type_number,
)
from runtimes.quantizer_process import Job

# A width that no type refuses: all blocks (32, 64, 256) divide it.
_WIDEST_BLOCK = 256
# Tensors of two dimensions that the converter writes as F32 and the quantizer leaves alone.
_ALWAYS_F32 = (
    "ffn_gate_inp.weight",
    "ffn_gate_inp_shexp.weight",
    "position_embd.weight",
    "token_types.weight",
    "ssm_conv1d.weight",
    "shortconv.conv.weight",
)
# What the quantizer asks of a file of any architecture.
_GENERIC = "llama"
_GENERIC_KEYS = (
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "vocab_size",
    "expert_count",
    "expert_used_count",
)


@dataclass(frozen=True)
class PredictedTensor:
    """A tensor after quantization; `shape` in PyTorch's order, `size_bytes` of the actual type.

    `intended` is what the mix gives this tensor where every width fits; where `actual` differs, the
    tensor fell back because of its row length.
    """

    name: str
    shape: tuple[int, ...]
    intended: str
    actual: str
    size_bytes: int

    @property
    def fell_back(self) -> bool:
        return self.intended != self.actual


def predict_types(
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Sequence[tuple[str, tuple[int, ...]]],
    quantization: str,
    *,
    with_imatrix: bool = False,
    tensor_types: Mapping[str, str] | None = None,
    pure: bool = False,
) -> list[PredictedTensor]:
    """The tensors of one type's file; see `predict_many`."""
    return predict_many(
        architecture,
        metadata,
        tensors,
        [quantization],
        with_imatrix=with_imatrix,
        tensor_types=tensor_types,
        pure=pure,
    )[canonical_quantization(quantization)]


def predict_many(
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Sequence[tuple[str, tuple[int, ...]]],
    quantizations: Iterable[str],
    *,
    with_imatrix: bool = False,
    tensor_types: Mapping[str, str] | None = None,
    pure: bool = False,
) -> dict[str, list[PredictedTensor]]:
    """For each quantization, every tensor's type and bytes as llama.cpp will choose them.

    `architecture` is GGUF's name (`llama`, `qwen2`); `metadata` its keys with or without the
    architecture's prefix (`block_count`, `attention.head_count`, ...); `tensors` GGUF names and
    shapes in PyTorch's order. An architecture that wants further keys is predicted as a `llama` of
    the same sizes: apart from Falcon and GLM-5, the mix depends only on tensor names, layers, heads
    and experts. Raises `UserError` for an unknown type.
    """
    names = [canonical_quantization(name) for name in dict.fromkeys(quantizations)]
    options = (with_imatrix, dict(tensor_types or {}), pure)
    keys = {key.removeprefix(f"{architecture}."): value for key, value in metadata.items()}
    try:
        logs = _dry_runs(architecture, keys, tensors, names, options)
    except UserError:
        if architecture == _GENERIC:
            raise
        generic = {key: keys[key] for key in _GENERIC_KEYS if key in keys}
        generic.setdefault("attention.layer_norm_rms_epsilon", 1e-5)
        logs = _dry_runs(_GENERIC, generic, tensors, names, options)
    shapes = dict(tensors)
    return {
        name: _predicted(shapes, padded, real)
        for name, real, padded in zip(names, logs[0::2], logs[1::2], strict=True)
    }


def _dry_runs(
    architecture: str,
    keys: Mapping[str, Any],
    tensors: Sequence[tuple[str, tuple[int, ...]]],
    names: Sequence[str],
    options: tuple[bool, Mapping[str, str], bool],
) -> list[QuantizeLog]:
    """Two logs for each name: with the real shapes, then with row lengths that fit every type."""
    with_imatrix, tensor_types, pure = options
    metadata: dict[str, Any] = {"general.architecture": architecture}
    metadata |= {
        key if key.startswith("general.") else f"{architecture}.{key}": value
        for key, value in keys.items()
    }
    numbers = quantization_names()
    overrides = [(pattern, tensor_type_number(name)) for pattern, name in tensor_types.items()]
    with ScratchFolder("predict") as folder:
        real, padded = Path(folder, "real.gguf"), Path(folder, "padded.gguf")
        rows = [(name, shape, _source_type(name, shape)) for name, shape in tensors]
        write_header_only(real, metadata, rows)
        write_header_only(padded, metadata, [(n, _padded(shape), t) for n, shape, t in rows])
        imatrix = _any_imatrix(Path(folder, "imatrix.gguf")) if with_imatrix else None
        jobs = [
            Job(
                source=str(path),
                target=str(Path(folder, "unused.gguf")),
                ftype=numbers[name],
                imatrix=imatrix,
                tensor_types=overrides,
                pure=pure,
                dry_run=True,
            )
            for name in names
            for path in (real, padded)
        ]
        return run_jobs(jobs)


def _predicted(
    shapes: Mapping[str, tuple[int, ...]], padded: QuantizeLog, real: QuantizeLog
) -> list[PredictedTensor]:
    intended = {tensor.name: tensor.target_type for tensor in padded.tensors}
    actual = {tensor.name: tensor.target_type for tensor in real.tensors}
    return [
        PredictedTensor(
            name, shape, intended[name], actual[name], type_size_bytes(actual[name], shape)
        )
        for name, shape in shapes.items()
    ]


def _any_imatrix(path: Path) -> str:
    """A matrix with one entry: the mix asks only whether there is one."""
    import numpy

    from runtimes.imatrix_file import Imatrix, ImatrixEntry, write_imatrix

    ones = numpy.ones((1, _WIDEST_BLOCK), numpy.float32)
    write_imatrix(path, Imatrix({"any.weight": ImatrixEntry(ones, ones[:, 0])}, 1, 1))
    return str(path)


def _source_type(name: str, shape: tuple[int, ...]) -> str:
    return "F32" if len(shape) < 2 or name.endswith(_ALWAYS_F32) else "F16"


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) < 2:
        return shape
    return (*shape[:-1], math.ceil(shape[-1] / _WIDEST_BLOCK) * _WIDEST_BLOCK)
