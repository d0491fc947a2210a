"""The reference's logits on disk, so that each quantized file is compared without running it again.

Files in the folder: `reference-logits.f32` (`[positions, vocabulary]`, float32, rows in the order
of the chunks, each chunk's last position left out), `tokens.npy` (int32, all chunks in a row),
`chunks.npy` (int64, where each chunk starts, and the end), `reference.json` (sizes and settings).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import read_json, reserve, write_json
from toolchain.evaluate.chunks import Chunks
from toolchain.evaluate.logits import Positions, compare_positions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    LogitsOf = Callable[[tuple[int, ...]], NDArray[np.float32]]

LOGITS, TOKENS, CHUNKS, FACTS = "reference-logits.f32", "tokens.npy", "chunks.npy", "reference.json"


@dataclass(frozen=True)
class Reference:
    """Stored logits with the tokens that they belong to; `facts` is `reference.json`."""

    tokens: tuple[tuple[int, ...], ...]
    logits: NDArray[np.float32]
    facts: Mapping[str, Any]

    def compare(self, logits_of: LogitsOf) -> Iterator[Positions]:
        """Run another model (chunk to logits of all positions) chunk by chunk against this one."""
        import numpy as np

        start = 0
        for chunk in self.tokens:
            end = start + len(chunk) - 1
            logits = logits_of(chunk)[:-1]
            yield compare_positions(self.logits[start:end], logits, np.asarray(chunk[1:], np.int32))
            start = end


def write_logits(path: Path, chunks: Chunks, vocab_size: int, logits_of: LogitsOf) -> None:
    """Run a model over the chunks and write its logits, one chunk in memory at a time."""
    import numpy as np

    shape = (chunks.positions, vocab_size)
    reserve(path, chunks.positions * vocab_size * np.float32().itemsize)
    rows = np.memmap(path, np.float32, "r+", shape=shape)
    start = 0
    for chunk in chunks.tokens:
        end = start + len(chunk) - 1
        rows[start:end] = logits_of(chunk)[:-1]
        start = end
    rows.flush()


def open_logits(path: Path, chunks: Chunks, vocab_size: int) -> Reference:
    """Logits written by `write_logits`, read as they are needed."""
    import numpy as np

    rows = np.memmap(path, np.float32, "r", shape=(chunks.positions, vocab_size))
    return Reference(chunks.tokens, rows, {})


def save_reference(
    folder: Path, chunks: Chunks, vocab_size: int, logits_of: LogitsOf, facts: Mapping[str, Any]
) -> None:
    """Run the reference model over the chunks and write the folder's four files."""
    import numpy as np

    write_logits(folder / LOGITS, chunks, vocab_size, logits_of)
    lengths = [len(chunk) for chunk in chunks.tokens]
    np.save(folder / TOKENS, np.concatenate([np.asarray(c, np.int32) for c in chunks.tokens]))
    np.save(folder / CHUNKS, np.cumsum([0, *lengths], dtype=np.int64))
    sizes = {"vocab_size": vocab_size, "positions": chunks.positions}
    write_json(folder / FACTS, {**facts, **sizes})


def load_reference(folder: Path) -> Reference:
    """Read what `save_reference` wrote; the logits are read as they are needed."""
    import numpy as np

    facts = read_json(folder / FACTS)
    flat = np.load(folder / TOKENS, allow_pickle=False)
    bounds = np.load(folder / CHUNKS, allow_pickle=False)
    chunks = tuple(tuple(int(t) for t in flat[a:b]) for a, b in itertools.pairwise(bounds))
    shape = (facts["positions"], facts["vocab_size"])
    return Reference(chunks, np.memmap(folder / LOGITS, np.float32, "r", shape=shape), facts)
