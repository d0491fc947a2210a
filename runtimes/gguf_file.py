"""Read what a GGUF file says about itself: metadata, tensors, their types and sizes.

Only the header is read (tensor data stay on disk). A truncated or foreign file is a `UserError`.
Format: ggml's `docs/gguf.md`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from runtimes.gguf_header import TensorEntry as TensorEntry
from runtimes.gguf_header import read_header


def read_tensor_types(path: Path) -> list[TensorEntry]:
    """Every tensor of the file, in the file's order. Type names as `Q4_K`, `F16`."""
    return list(read_header(path).tensors)


def open_tensors(path: Path) -> dict[str, Any]:
    """gguf's own records of the tensors by name; their `data` is read as it is used."""
    import gguf

    read_header(path)  # gguf believes what a file says
    try:
        return {str(tensor.name): tensor for tensor in gguf.GGUFReader(path).tensors}
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path} is damaged or truncated: {error}", "make the file again, or copy it again"
        ) from None


def read_metadata(path: Path) -> dict[str, Any]:
    """The file's key-value pairs as Python values."""
    return read_header(path).metadata


def type_size_bytes(type_name: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor of this type; its last dimension must be a multiple of the type's block."""
    import gguf

    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]]
    return math.prod(shape) // int(block) * int(block_bytes)


def bits_per_weight(tensors: Sequence[TensorEntry]) -> float:
    """Bits that the file's tensors take per weight, over all of them."""
    return 8 * sum(t.size_bytes for t in tensors) / max(1, sum(t.elements for t in tensors))


def write_header_only(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Sequence[tuple[str, tuple[int, ...], str]],
) -> None:
    """Write a GGUF with these tensors (name, shape, `F32` or `F16`) whose data are a hole.

    The file has the size of a real one but takes only its header's room on the disk.
    """
    import gguf
    import numpy

    writer = gguf.GGUFWriter(path, str(metadata["general.architecture"]))
    for key, value in metadata.items():
        if key != "general.architecture":
            _add(writer, key, value)
    dtypes: dict[str, Any] = {"F32": numpy.dtype(numpy.float32), "F16": numpy.dtype(numpy.float16)}
    data_bytes = 0
    for name, shape, type_name in tensors:
        nbytes = math.prod(shape) * dtypes[type_name].itemsize
        writer.add_tensor_info(name, shape, dtypes[type_name], nbytes)
        data_bytes += writer.ggml_pad(nbytes, writer.data_alignment)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as stream:
        header_bytes = stream.seek(0, 2)
        stream.truncate(writer.ggml_pad(header_bytes, writer.data_alignment) + data_bytes)


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
