"""The matrices of a file whose types are chosen, what each may be, and how many bytes they take.

Norms and the like, which llama.cpp keeps in F32, are no choice; rows that are no whole blocks of a
type rule it out. Sizes are those in the file, where each tensor begins at a multiple of 32 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import UserError
from runtimes.ggml_blocks import block_columns
from runtimes.gguf_file import type_size_bytes
from toolchain.export.gguf.mixed.settings import DEFAULT_SIZE, NARROW_TYPES, WIDE_TYPES, Mixed
from toolchain.plan import predicted_tensors

if TYPE_CHECKING:
    from runtimes.predict import PredictedTensor
    from toolchain.checkpoint.info import CheckpointInfo

_ALIGNMENT = 32
_KEPT = "F32"
# Rows of no whole block of any type stay so, as with llama.cpp's own fallback.
_WITHOUT_BLOCKS = "F16"


@dataclass(frozen=True)
class Matrix:
    """A tensor whose type is chosen; `plain` is its type in the file of `Mixed.sized_as`."""

    name: str
    shape: tuple[int, ...]
    types: tuple[str, ...]
    plain: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def bytes_as(self, kind: str) -> int:
        """Its bytes in a type, in the file."""
        return padded(type_size_bytes(kind, self.shape))


@dataclass(frozen=True)
class Room:
    """The matrices, and the bytes that they may take together; `rest_bytes` is what the other
    tensors take, `reference` the type whose file's size that is."""

    matrices: tuple[Matrix, ...]
    limit_bytes: int
    rest_bytes: int
    reference: str | None

    @property
    def plain(self) -> str:
        """The type whose mix is written over."""
        return self.reference or DEFAULT_SIZE

    @property
    def least_bytes(self) -> int:
        """With every matrix in its smallest type."""
        return sum(min(map(m.bytes_as, m.types)) for m in self.matrices)

    @property
    def most_bytes(self) -> int:
        """With every matrix in its largest type."""
        return sum(max(map(m.bytes_as, m.types)) for m in self.matrices)


def padded(size_bytes: int) -> int:
    """Bytes up to where the next tensor may begin."""
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT


def find_room(
    info: CheckpointInfo, settings: Mixed, *, with_imatrix: bool, header_bytes: int = 0
) -> Room:
    """The room that the settings leave. `header_bytes` is what the file has beside tensors, which
    `size_bytes` counts. Raises `UserError` for a size that no choice of types is as small as."""
    matrices, others = find_matrices(
        info, settings.types, settings.sized_as or DEFAULT_SIZE, with_imatrix=with_imatrix
    )
    rest = sum(padded(t.size_bytes) for t in others)
    elements = sum(m.elements for m in matrices) + sum(math.prod(t.shape) for t in others)
    if settings.size_bytes is not None:
        limit = settings.size_bytes - header_bytes - rest
    elif settings.bits_per_weight is not None:
        limit = int(settings.bits_per_weight * elements / 8) - rest
    else:
        limit = sum(m.bytes_as(m.plain) for m in matrices)
    room = Room(matrices, limit, rest, settings.sized_as)
    _require(room, settings, elements, header_bytes)
    return room


def find_matrices(
    info: CheckpointInfo,
    types: Sequence[str],
    plain: str = DEFAULT_SIZE,
    *,
    with_imatrix: bool,
) -> tuple[tuple[Matrix, ...], tuple[PredictedTensor, ...]]:
    """The matrices, and the file's other tensors. `types` are those that are named, if any are;
    `plain` is the type whose mix `Matrix.plain` tells."""
    predicted = predicted_tensors(info, [plain], with_imatrix=with_imatrix)[0][plain]
    matrices = tuple(
        Matrix(t.name, t.shape, _fitting(t.shape, types), t.actual)
        for t in predicted
        if _is_chosen(t)
    )
    return matrices, tuple(t for t in predicted if not _is_chosen(t))


def _is_chosen(tensor: PredictedTensor) -> bool:
    return len(tensor.shape) > 1 and tensor.actual != _KEPT


def _fitting(shape: Sequence[int], types: Sequence[str]) -> tuple[str, ...]:
    """The types whose blocks divide the rows: of those that are named, else of the widest blocks
    that do."""
    for group in (types,) if types else (WIDE_TYPES, NARROW_TYPES):
        found = tuple(kind for kind in group if shape[-1] % block_columns(kind) == 0)
        if found == tuple(group) or (found and types):
            return found
    return (_WITHOUT_BLOCKS,)


def _require(room: Room, settings: Mixed, elements: int, header_bytes: int) -> None:
    least = room.least_bytes
    if least <= room.limit_bytes:
        return
    bits = 8 * (least + room.rest_bytes) / elements
    asked: Mapping[str, object] = {
        f"mixed.{name}": value
        for name in ("size", "size_bytes", "bits_per_weight")
        if (value := getattr(settings, name)) is not None
    } or {"mixed.size": DEFAULT_SIZE}
    name, value = next(iter(asked.items()))
    whole = least + room.rest_bytes + header_bytes
    raise UserError(
        f"{name} {value} is too small: with each tensor in the smallest type that it may have, the "
        f"file takes {whole} bytes ({bits:.2f} bits per weight)",
        f"ask for at least bits_per_weight: {math.ceil(bits * 100) / 100:g}, or add smaller types "
        "(Q2_K)",
    )
