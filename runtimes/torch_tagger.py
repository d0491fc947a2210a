"""Run a token classifier (names in a text, parts of speech) of transformers in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runtimes.protocol import TokenScores
from runtimes.torch_encoder import TorchEncoder


class TorchTagger:
    """Implements `runtimes.protocol.TokenTagger`; `labels` in the order of the outputs."""

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

    def token_scores(self, texts: Sequence[str]) -> list[TokenScores]:
        """Spans and logits of every text's tokens; what was cut off has none."""
        found: dict[int, TokenScores] = {}
        for batch, output in self._encoder.outputs(texts, with_spans=True):
            logits = output.logits.float().cpu().numpy()
            for number, row in enumerate(batch.rows):
                mask = batch.inputs["attention_mask"][number].astype(bool)
                spans = batch.spans[number]
                kept = [at for at, span in enumerate(spans) if span is not None]
                found[row] = TokenScores(
                    tuple(span for span in spans if span is not None), logits[number][mask][kept]
                )
        return [found[row] for row in range(len(texts))]

    def close(self) -> None:
        self._encoder.close()
