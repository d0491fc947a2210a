"""KLDs of types that were not measured, from one that was: in proportion to the weighed errors.

For small changes KLD grows with the square of the change. A matrix's rounding errors differ between
types in size rather than in kind, so their squares, weighed by the mean squared input of each
column, tell what one measured KLD means for the other types.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runtimes.ggml_blocks import dequantize_rows, quantize_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The type to measure: in the middle of those that are chosen from.
_ANCHORS = ("Q4_K", "IQ4_XS", "Q4_0", "IQ4_NL", "Q5_K", "Q5_0", "Q3_K")


def anchor(types: Sequence[str]) -> str:
    """Which of the types to measure."""
    return next((kind for kind in _ANCHORS if kind in types), types[0])


def reckoned(
    measured: float,
    weight: NDArray[np.float32],
    types: Sequence[str],
    importance: NDArray[np.float32] | None,
) -> dict[str, float]:
    """The KLD of every type, that of `anchor(types)` being the measured one."""
    errors = {kind: _error(weight, kind, importance) for kind in types}
    own = errors[anchor(types)]
    return {kind: measured * error / own if own > 0 else 0.0 for kind, error in errors.items()}


def _error(weight: NDArray[np.float32], kind: str, importance: NDArray[np.float32] | None) -> float:
    import numpy as np

    blocks = quantize_rows(weight, kind, importance)
    squares = np.square(dequantize_rows(blocks, kind, weight.shape[1]) - weight).sum(0, np.float64)
    return float((squares if importance is None else squares * importance).sum())
