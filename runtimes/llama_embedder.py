"""Run an encoder's GGUF with llama.cpp: one vector a text.

    with LlamaEmbedder(path, max_tokens=512) as model:
        vectors = model.embed(["a text"])

llama.cpp gives the hidden states; they are pooled as every other engine's are (`runtimes.pooling`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.closing import Closing
from common.errors import UserError
from runtimes.llama import LlamaModel
from runtimes.pooling import Pooling, PoolingMode, pool
from runtimes.protocol import Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# llama.cpp's architectures that read whole texts.
ARCHITECTURES = frozenset(
    {"bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3",
     "neo-bert", "eurobert"}
)  # fmt: skip
# `enum llama_pooling_type`; without one, the mean.
_POOLING: dict[str, PoolingMode] = {"1": "mean", "2": "cls", "3": "lasttoken"}


class LlamaEmbedder(Closing):
    """Implements `runtimes.protocol.Embedder`. Texts longer than `max_tokens` are cut. `pooling`
    None takes the file's, and vectors of length 1, as llama.cpp's own server gives them."""

    def __init__(
        self,
        path: Path,
        *,
        max_tokens: int,
        pooling: Pooling | None = None,
        exact: bool = False,
        threads: int | None = None,
        check_weights: bool = False,
    ) -> None:
        self.max_tokens = max_tokens
        # The batch must hold a whole text: every token attends to every other.
        self.model = LlamaModel(
            path,
            context_tokens=max_tokens,
            batch_tokens=max_tokens,
            exact=exact,
            threads=threads,
            vectors=True,
            check_weights=check_weights,
        )
        self._pooling = pooling or file_pooling(self.model.metadata)

    @property
    def width(self) -> int:
        return self.model.width

    def embed(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """`[texts, width]`."""
        import numpy as np

        vectors = np.empty((len(texts), self.width), np.float32)
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError("llama.cpp embeds single texts, no pairs", "join the two texts")
            hidden = self.model.hidden(self._ids(text))
            mask = np.ones((1, len(hidden)), np.int64)
            vectors[row] = pool(hidden[None], mask, self._pooling)[0]
        return vectors

    def close(self) -> None:
        self.model.close()

    def _ids(self, text: str) -> list[int]:
        """The text's tokens; of one that is too long the first, and its own last (as [SEP])."""
        ids = self.model.tokenize(text, add_special=True)
        return ids if len(ids) <= self.max_tokens else [*ids[: self.max_tokens - 1], ids[-1]]


def file_pooling(metadata: dict[str, str]) -> Pooling:
    """What the file says of its pooling."""
    architecture = metadata.get("general.architecture", "")
    kind = metadata.get(f"{architecture}.pooling_type", "")
    return Pooling(_POOLING.get(kind, "mean"), normalize=True)
