"""Put the blocks that a checkpoint is made of into its quantized GGUF, and prove it.

    count = write_blocks(unquantized, quantized, read_exact(checkpoint))

The quantizer has written the file: its metadata, types and order stay, only the bytes of weights
change. Which trained row a row of the file is, its values say: the converter permutes rows (query
and key of Llama) and renames tensors, but leaves a row's values alone, and blocks lie within a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from runtimes.ggml_blocks import columns_of, dequantize_rows
from runtimes.gguf_file import open_tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toolchain.compress.exact.sidecar import Exact

_FLOAT = "F32"
_AGAIN = (
    "export the checkpoint as it is, in the type that its blocks were made in; after any other "
    "change make them again"
)


def write_blocks(unquantized: Path, quantized: Path, exact: Exact) -> int:
    """Replace the weights of `quantized` by the trained blocks; how many tensors there were.

    Every row is then read back and compared bit by bit with the row of `unquantized` (F32), which
    holds the trained values. Raises `UserError` when a row was never trained, or differs.
    """
    trained = _trained_rows(exact)
    places = []
    with quantized.open("r+b") as stream:
        for name, kind, offset, values in _matrices(unquantized, quantized):
            found = [trained.get((kind, _digest(row))) for row in values]
            if None in found:
                raise UserError(
                    f"row {found.index(None)} of {name} ({kind}) is none of its blocks", _AGAIN
                )
            stream.seek(offset)
            for place in found:
                assert place is not None  # looked at above
                stream.write(exact.blocks[place[0]][place[1]].tobytes())
            places.append(name)
    for name, kind, values, blocks in _written(unquantized, quantized):
        _require_equal(name, kind, values, blocks)
    return len(places)


def _trained_rows(exact: Exact) -> dict[tuple[str, bytes], tuple[str, int]]:
    """(type, digest of a row's values) to the weight's name and the number of its row."""
    found = {}
    for name, blocks in exact.blocks.items():
        kind = exact.plan.types[name]
        values = dequantize_rows(blocks, kind, columns_of(kind, blocks.shape[1]))
        for number, row in enumerate(values):
            found[kind, _digest(row)] = (name, number)
    return found


def _matrices(
    unquantized: Path, quantized: Path
) -> Iterator[tuple[str, str, int, NDArray[np.float32]]]:
    """Name, type and place in the quantized file, and values [rows, columns], of each weight that
    was quantized."""
    source = open_tensors(unquantized)
    for name, tensor in open_tensors(quantized).items():
        kind = tensor.tensor_type.name
        if kind != _FLOAT:
            yield name, kind, int(tensor.data_offset), _values(name, source[name])


def _written(
    unquantized: Path, quantized: Path
) -> Iterator[tuple[str, str, NDArray[np.float32], NDArray[np.uint8]]]:
    import numpy as np

    file = np.memmap(quantized, np.uint8, "r")
    source = open_tensors(unquantized)
    for name, tensor in open_tensors(quantized).items():
        kind = tensor.tensor_type.name
        if kind != _FLOAT:
            values = _values(name, source[name])
            end = int(tensor.data_offset) + int(tensor.n_bytes)
            blocks = file[int(tensor.data_offset) : end].reshape(len(values), -1)
            yield name, kind, values, blocks


def _values(name: str, tensor: Any) -> NDArray[np.float32]:
    """The trained values of a tensor of the unquantized file."""
    if tensor.tensor_type.name != _FLOAT:
        raise UserError(
            f"{name} is {tensor.tensor_type.name} in the unquantized file, which cannot hold every "
            "trained value",
            "convert with intermediate f32",
        )
    values: NDArray[np.float32] = tensor.data
    return values.reshape(-1, values.shape[-1])


def _require_equal(
    name: str, kind: str, values: NDArray[np.float32], blocks: NDArray[np.uint8]
) -> None:
    import numpy as np

    read = dequantize_rows(blocks, kind, values.shape[1])
    differ = (read.view(np.uint32) != np.ascontiguousarray(values).view(np.uint32)).sum()
    if differ:
        raise UserError(f"{differ} values of {name} ({kind}) are not those of its blocks", _AGAIN)


def _digest(row: NDArray[np.float32]) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()
