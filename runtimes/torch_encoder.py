"""What classifiers, taggers and embedding models of transformers share in torch: batches in, the
network's output out.

The caller loads network and tokenizer (weights, adapters and precision are its matter).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from runtimes.encoder_batches import Batch, encoder_batches
from runtimes.protocol import Text


class TorchEncoder:
    """A loaded network that reads whole texts of at most `max_tokens`, `parallel` at a time;
    `on_close` is called once by `close`."""

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        *,
        max_tokens: int,
        parallel: int = 32,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._network = network
        self._tokenizer = tokenizer
        self._on_close = on_close
        self._inputs = frozenset(inspect.signature(network.forward).parameters)
        self.max_tokens = max_tokens
        # A head that looks for a text's last token must know what padding is.
        padded = tokenizer.pad_token_id is not None
        known = getattr(network.config, "pad_token_id", None) == tokenizer.pad_token_id
        self.parallel = parallel if padded and known else 1

    def close(self) -> None:
        """Let go of the network."""
        if self._network is not None:
            self._network = None
            self._on_close()

    def outputs(
        self, texts: Sequence[Text], *, with_spans: bool = False
    ) -> Iterator[tuple[Batch, Any]]:
        """Each batch with the network's output for it."""
        import torch

        if self._network is None:
            raise ValueError("the model is closed")
        batches = encoder_batches(
            self._tokenizer,
            texts,
            max_tokens=self.max_tokens,
            batch_size=self.parallel,
            with_spans=with_spans,
        )
        for batch in batches:
            tensors = {
                name: torch.from_numpy(values).to(self._network.device)
                for name, values in batch.inputs.items()
                if name in self._inputs
            }
            with torch.inference_mode():
                yield batch, self._network(**tensors)


class LabelledEncoder:
    """A network that gives `labels`, in the order of its outputs: to texts or to their tokens."""

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        *,
        labels: Sequence[str],
        max_tokens: int,
        parallel: int = 32,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._labels = tuple(labels)
        self._encoder = TorchEncoder(
            network, tokenizer, max_tokens=max_tokens, parallel=parallel, on_close=on_close
        )

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    def close(self) -> None:
        self._encoder.close()
