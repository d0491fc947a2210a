"""Run an embedding model of transformers in torch: hidden states, pooled to one vector a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtimes.pooling import Pooling, pool
from runtimes.protocol import Text
from runtimes.torch_encoder import TorchEncoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TorchEmbedder:
    """Implements `runtimes.protocol.Embedder`."""

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        *,
        pooling: Pooling,
        max_tokens: int,
        parallel: int = 32,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._pooling = pooling
        self._width = int(network.config.hidden_size)
        self._encoder = TorchEncoder(
            network, tokenizer, max_tokens=max_tokens, parallel=parallel, on_close=on_close
        )

    @property
    def width(self) -> int:
        return self._width

    def embed(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """`[texts, width]`."""
        import numpy as np

        vectors = np.empty((len(texts), self._width), dtype=np.float32)
        for batch, output in self._encoder.outputs(texts):
            hidden = output.last_hidden_state.float().cpu().numpy()
            vectors[list(batch.rows)] = pool(hidden, batch.inputs["attention_mask"], self._pooling)
        return vectors

    def close(self) -> None:
        self._encoder.close()
