"""One vector of a text's token vectors (sentence-transformers' pooling), for every engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PoolingMode = Literal["mean", "cls", "max", "lasttoken"]
POOLING_MODES: tuple[str, ...] = get_args(PoolingMode)


@dataclass(frozen=True)
class Pooling:
    """`mode`: the mean of the text's tokens, its first token, the largest number at each place, or
    its last token. `normalize` makes vectors of length 1."""

    mode: PoolingMode = "mean"
    normalize: bool = False


def pool(
    hidden: NDArray[np.float32], mask: NDArray[np.int64], pooling: Pooling
) -> NDArray[np.float32]:
    """`hidden` `[texts, tokens, width]` and the attention mask `[texts, tokens]` as vectors
    `[texts, width]`. Padding counts for nothing, on either side."""
    import numpy as np

    seen = mask.astype(bool)[:, :, None]
    rows = np.arange(len(hidden))
    if pooling.mode == "mean":
        counts = np.maximum(seen.sum(axis=1), 1)
        pooled = np.where(seen, hidden, 0).sum(axis=1, dtype=np.float64) / counts
    elif pooling.mode == "cls":
        pooled = hidden[rows, mask.argmax(axis=1)]
    elif pooling.mode == "max":
        pooled = np.where(seen, hidden, -np.inf).max(axis=1)
    else:
        last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
        pooled = hidden[rows, last]
    vectors: NDArray[np.float32] = pooled.astype(np.float32)
    if pooling.normalize:
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors
