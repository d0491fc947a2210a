"""Intended against actual tensor types of a quantized file, read back from the file.

llama.cpp quietly takes a larger type where a row's length does not fit (256 for K-quants, 32 for
Q4_0 and Q8_0): exit code 0, a bigger file. Here it is a table, a warning and a mend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtimes.gguf_file import TensorEntry, bits_per_weight, read_metadata, read_tensor_types
from runtimes.predict import PredictedTensor, predict_types

_BLOCKS = (256, 32)
_SMALL_BLOCKS = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"}


@dataclass(frozen=True)
class TypeRow:
    """One tensor of the file. `shape` in PyTorch's order (rows, columns)."""

    tensor: str
    shape: tuple[int, ...]
    intended: str
    actual: str
    size_bytes: int

    @property
    def fell_back(self) -> bool:
        """Whether the file holds another type than the mix intends."""
        return self.intended != self.actual


def type_table(
    source: Path,
    target: Path,
    quantization: str,
    *,
    with_imatrix: bool,
    tensor_types: Mapping[str, str],
    pure: bool,
) -> list[TypeRow]:
    """Every tensor of `target`: the type that the mix intends, had each row a fitting length, and
    the type in the file. `source` is the unquantized file."""
    metadata = read_metadata(source)
    architecture = str(metadata["general.architecture"])
    scalars = {
        key: value
        for key, value in metadata.items()
        if key.startswith(f"{architecture}.") and not isinstance(value, list)
    }
    # Per-layer arrays (heads, widths) differ in no way that the mix looks at.
    scalars |= {
        key: max(value)
        for key, value in metadata.items()
        if key.startswith(f"{architecture}.") and _numbers(value)
    }
    before = {entry.name: entry for entry in read_tensor_types(source)}
    predicted = predict_types(
        architecture,
        scalars,
        [(entry.name, entry.shape) for entry in before.values()],
        quantization,
        with_imatrix=with_imatrix,
        tensor_types=tensor_types,
        pure=pure,
    )
    mix = {tensor.name: tensor for tensor in predicted}
    return [_row(entry, mix[entry.name], before[entry.name]) for entry in read_tensor_types(target)]


def summary(target: Path, rows: Sequence[TypeRow]) -> dict[str, Any]:
    """The measurements of a quantized file: sizes, bits per weight, the whole table, fallbacks."""
    entries = read_tensor_types(target)
    return {
        "size_bytes": target.stat().st_size,
        "tensor_bytes": sum(entry.size_bytes for entry in entries),
        "parameters": sum(entry.elements for entry in entries),
        "bits_per_weight": round(bits_per_weight(entries), 4),
        "tensors": [asdict(row) | {"shape": list(row.shape)} for row in rows],
        "fallbacks": [
            {
                "tensor": row.tensor,
                "columns": row.shape[-1],
                "intended": row.intended,
                "actual": row.actual,
            }
            for row in rows
            if row.fell_back
        ],
    }


def fallback_warning(quantization: str, rows: Sequence[TypeRow]) -> str | None:
    """One loud paragraph about the tensors that fell back; nothing when none did."""
    fallen = [row for row in rows if row.fell_back]
    if not fallen:
        return None
    groups: dict[tuple[int, str, str], int] = {}
    for row in fallen:
        key = (row.shape[-1], row.intended, row.actual)
        groups[key] = groups.get(key, 0) + 1
    matrices = sum(len(row.shape) > 1 for row in rows)
    share = sum(row.size_bytes for row in fallen) / max(1, sum(row.size_bytes for row in rows))
    lines = [
        f"WARNING: {len(fallen)} of {matrices} weight matrices ({share:.0%} of the bytes) are not "
        f"{quantization} but a larger type, because of their row length:"
    ]
    for (columns, intended, actual), count in sorted(groups.items()):
        lines.append(f"  {count:4d} x {intended} -> {actual}: {_reason(columns)}")
    widths = sorted({row.shape[-1] for row in fallen})
    snapped = ", ".join(f"{w} -> {_nearest(w, 256)}" for w in widths)
    lines.append(
        f"  mend: snap these widths to multiples of 256 when the model is made ({snapped})"
    )
    if quantization not in _SMALL_BLOCKS and any(width % 32 == 0 for width in widths):
        lines.append("        or choose Q8_0, Q5_0 or Q4_0, whose blocks are 32")
    return "\n".join(lines)


def _row(entry: TensorEntry, mix: PredictedTensor, before: TensorEntry) -> TypeRow:
    # What quantization leaves alone keeps its type (F32, F16, BF16), which no prediction needs.
    kept = entry.type == before.type and not mix.fell_back
    intended = entry.type if kept else mix.intended
    return TypeRow(entry.name, entry.shape, intended, entry.type, entry.size_bytes)


def _reason(columns: int) -> str:
    fitting = next((block for block in _BLOCKS if columns % block == 0), None)
    if fitting == 32:
        return f"row length {columns} is no multiple of 256"
    if fitting is None:
        return f"row length {columns} is no multiple of 256, nor of 32"
    return f"row length {columns}"


def _nearest(width: int, block: int) -> int:
    return max(block, math.floor(width / block + 0.5) * block)


def _numbers(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(v, int | float) for v in value)
    )
