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
from runtimes.gguf_file import read_metadata

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUMS = ".in_sum2"
_COUNTS = ".counts"


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
    import gguf
    import numpy

    metadata = read_metadata(path)
    if metadata.get("general.type") != "imatrix":
        raise UserError(f"{path} is a GGUF file, but no importance matrix")
    tensors = {str(t.name): numpy.array(t.data) for t in gguf.GGUFReader(path).tensors}
    names = [name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)]
    missing = [name for name in names if name + _COUNTS not in tensors]
    if missing:
        raise UserError(f"{path} has no counts for {missing[0]}", "compute the matrix again")
    entries = {
        name: ImatrixEntry(
            sums=_matrix(tensors[name + _SUMS]), counts=tensors[name + _COUNTS].reshape(-1)
        )
        for name in names
    }
    return Imatrix(
        entries=entries,
        chunk_count=int(metadata.get("imatrix.chunk_count", 0)),
        chunk_size=int(metadata.get("imatrix.chunk_size", 0)),
        datasets=tuple(_strings(metadata.get("imatrix.datasets"))),
    )


def _matrix(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(1, -1) if values.ndim == 1 else values


def _strings(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(item) for item in value]
