"""ggml's own block quantizers in memory: the very bytes that llama.cpp's quantizer writes.

    blocks = quantize_rows(weight, "Q4_0")      # (rows, bytes of a row), uint8
    values = dequantize_rows(blocks, "Q4_0", weight.shape[1])

Both go through the functions of the installed runtime (`ggml_quantize_chunk` and a type's
`to_float`), so what is computed with the values is what the file will hold, bit by bit.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from runtimes.gguf_file import type_size_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LIBRARIES = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}
_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _Traits(ctypes.Structure):
    """`struct ggml_type_traits` of ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _TO_FLOAT),
        ("from_float_ref", ctypes.c_void_p),
    )


def row_bytes(type_name: str, columns: int) -> int:
    """Bytes of a row of so many weights. Raises `UserError` when they are no whole blocks."""
    block = _traits(type_name).blck_size
    if columns % block:
        raise UserError(
            f"rows of {columns} weights cannot be {type_name}: its blocks hold {block}",
            "take a type with smaller blocks",
        )
    return type_size_bytes(type_name, (columns,))


def block_columns(type_name: str) -> int:
    """How many weights of a row a block of the type holds."""
    return int(_traits(type_name).blck_size)


def columns_of(type_name: str, size_bytes: int) -> int:
    """How many weights a row of so many bytes holds."""
    traits = _traits(type_name)
    return int(size_bytes // traits.type_size * traits.blck_size)


def quantize_rows(
    values: NDArray[np.float32], type_name: str, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Rows (rows, columns) as blocks (rows, bytes of a row). `importance` weighs the columns (an
    importance matrix's mean squared inputs). Raises `UserError` for rows that are no whole blocks,
    values that are not finite, and a type that wants an importance and gets none."""
    import numpy as np

    source = np.ascontiguousarray(values, np.float32)
    rows, columns = source.shape
    blocks = np.empty((rows, row_bytes(type_name, columns)), np.uint8)
    if not np.isfinite(source).all():
        raise UserError(
            f"weights that are not finite cannot become {type_name}",
            "check the checkpoint for NaN and Inf",
        )
    number, library = _number(type_name), _library()
    if importance is None and library.ggml_quantize_requires_imatrix(number):
        raise UserError(f"{type_name} needs an importance matrix", "choose a larger type")
    weights = None
    if importance is not None:
        weights = np.ascontiguousarray(importance, np.float32)
        if weights.shape != (columns,):
            raise ValueError(f"{weights.shape} importances for {columns} columns")
    written = library.ggml_quantize_chunk(
        number,
        source.ctypes.data,
        blocks.ctypes.data,
        0,
        rows,
        columns,
        None if weights is None else weights.ctypes.data,
    )
    assert written == blocks.nbytes
    return blocks


def dequantize_rows(blocks: NDArray[np.uint8], type_name: str, columns: int) -> NDArray[np.float32]:
    """Blocks (rows, bytes of a row) as the values (rows, columns) that the runtime reads."""
    import numpy as np

    source = np.ascontiguousarray(blocks, np.uint8)
    if source.shape[1] != row_bytes(type_name, columns):
        raise ValueError(f"{source.shape[1]} bytes for a row of {columns} in {type_name}")
    values = np.empty((len(source), columns), np.float32)
    if type_name == "F32":  # the one type without a conversion
        return source.view(np.float32).copy()
    _traits(type_name).to_float(source.ctypes.data, values.ctypes.data, values.size)
    return values


def _number(type_name: str) -> int:
    import gguf

    return int(gguf.GGMLQuantizationType[type_name])


@functools.cache
def _traits(type_name: str) -> Any:
    return _library().ggml_get_type_traits(_number(type_name)).contents


@functools.cache
def _library() -> Any:
    """The runtime's libggml-base, with the signatures that are used."""
    found = importlib.util.find_spec("llama_cpp")
    name = _LIBRARIES.get(sys.platform, "libggml-base.so")
    path = Path(found.origin).parent / "lib" / name if found and found.origin else None
    if path is None or not path.is_file():
        raise UserError(f"llama-cpp-python's {name} is missing", "make setup")
    library = ctypes.CDLL(str(path))
    library.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    library.ggml_get_type_traits.argtypes = [ctypes.c_int]
    library.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    library.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        *([ctypes.c_void_p] * 2),
        *([ctypes.c_int64] * 3),
        ctypes.c_void_p,
    ]
    return library
