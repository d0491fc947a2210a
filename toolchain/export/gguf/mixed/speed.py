"""How long decoding takes in each type, from a table of what was measured.

    times = decode_times(room, decode_costs())
    times(matrix, "Q5_K")       # in the time that a weight of Q4_K takes

A token's decoding reads every matrix once but an embedding that only looks rows up. How fast a type
is depends on the processor: some have repacked kernels in llama.cpp, others none. The table is
`decode_costs.yaml`, made by scripts/bench_tensor_types.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from common.strict import read_yaml

if TYPE_CHECKING:
    from toolchain.export.gguf.mixed.matrices import Matrix, Room

_TABLE = Path(__file__).with_name("decode_costs.yaml")
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
# A type that was not measured is no way to be fast.
_UNKNOWN = 4.0

Times = Callable[["Matrix", str], float]


def decode_times(room: Room, costs: Mapping[str, float]) -> Times:
    """A function from matrix and type to decode time; `costs` are those of `decode_costs`."""
    looked_up = {_EMBEDDING} if any(m.name == _OUTPUT for m in room.matrices) else set()

    def time(matrix: Matrix, kind: str) -> float:
        if matrix.name in looked_up:
            return 0.0
        return matrix.elements * costs.get(kind, _UNKNOWN)

    return time


def decode_costs() -> Mapping[str, float]:
    """Time of a weight in each type, in that of Q4_K."""
    return {str(kind): float(cost) for kind, cost in read_yaml(_TABLE)["ratios"].items()}
