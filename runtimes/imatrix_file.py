"""Importance matrices in llama.cpp's GGUF format, as llama-imatrix writes and llama-quantize reads.

For each weight tensor NAME there are `NAME.in_sum2` (matrices, columns): sums of squared inputs per
column, and `NAME.counts` (matrices, 1): how many rows were summed; a matrix is an expert, or the
whole tensor. Source: llama.cpp, tools/imatrix/imatrix.cpp and common/imatrix-loader.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from runtimes.gguf_file import open_tensors, read_metadata

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUMS = ".in_sum2"
_COUNTS = ".counts"
_AGAIN = "compute the matrix again"


@dataclass(frozen=True)
class ImatrixEntry:
    """`sums` (matrices, columns) float32 and `counts` (matrices,) of one tensor."""

    sums: NDArray[Any]
    counts: NDArray[Any]


@dataclass(frozen=True)
class Imatrix:
    """A whole matrix, by GGUF tensor name; `datasets` names the calibration texts."""

    entries: Mapping[str, ImatrixEntry]
    chunk_count: int
    chunk_size: int
    datasets: Sequence[str] = field(default_factory=tuple)

    def importances(self) -> dict[str, NDArray[Any]]:
        """Mean squared input per column, flat float32, as the quantizer wants it.

        An expert that no calibration token reached counts as 1 everywhere, as in llama-quantize.
        """
        import numpy

        result = {}
        for name, entry in sorted(self.entries.items()):
            counts = entry.counts.astype(numpy.float32)[:, None]
            mean = entry.sums / numpy.where(counts > 0, counts, numpy.float32(1))
            result[name] = numpy.where(counts > 0, mean, numpy.float32(1)).reshape(-1)
        return result


def write_imatrix(path: Path, imatrix: Imatrix) -> None:
    """Write the matrix in llama.cpp's GGUF format."""
    import gguf
    import numpy

    writer = gguf.GGUFWriter(path, arch="")
    writer.kv_data[0].clear()  # llama-imatrix names no architecture
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", list(imatrix.datasets))
    writer.add_uint32("imatrix.chunk_count", imatrix.chunk_count)
    writer.add_uint32("imatrix.chunk_size", imatrix.chunk_size)
    for name, entry in sorted(imatrix.entries.items()):
        writer.add_tensor(name + _SUMS, numpy.ascontiguousarray(entry.sums, numpy.float32))
        counts = numpy.ascontiguousarray(entry.counts, numpy.float32)[:, None]
        writer.add_tensor(name + _COUNTS, counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_imatrix(path: Path) -> Imatrix:
    """Read a matrix in GGUF format. Raises `UserError` for a file that is none."""
    metadata, tensors = read_metadata(path), open_tensors(path)
    if metadata.get("general.type") != "imatrix":
        raise UserError(f"{path} is a GGUF file, but no importance matrix")
    names = [name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)]
    missing = [name for name in names if name + _COUNTS not in tensors]
    if missing:
        raise UserError(f"{path} has no counts for {missing[0]}", _AGAIN)
    entries = {}
    for name in names:
        sums, counts = _values(path, tensors[name + _SUMS]), _values(path, tensors[name + _COUNTS])
        sums, counts = sums.reshape(-1, sums.shape[-1]), counts.reshape(-1)
        if len(sums) != len(counts):
            raise UserError(f"{path} has {len(counts)} counts for {len(sums)} of {name}", _AGAIN)
        entries[name] = ImatrixEntry(sums, counts)
    return Imatrix(
        entries=entries,
        chunk_count=_whole_number(metadata.get("imatrix.chunk_count")),
        chunk_size=_whole_number(metadata.get("imatrix.chunk_size")),
        datasets=tuple(_strings(metadata.get("imatrix.datasets"))),
    )


def _values(path: Path, tensor: Any) -> NDArray[Any]:
    """A tensor's numbers, none of them below zero."""
    import numpy

    values = numpy.array(tensor.data)
    if values.dtype != numpy.float32 or not bool((numpy.isfinite(values) & (values >= 0)).all()):
        raise UserError(f"{path} is damaged: {tensor.name} holds other than sums", _AGAIN)
    return values


def _whole_number(value: Any) -> int:
    return value if type(value) is int else 0


def _strings(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(item) for item in value]
