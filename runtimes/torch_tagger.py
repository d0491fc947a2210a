"""Run a token classifier (names in a text, parts of speech) of transformers in torch."""

from __future__ import annotations

from collections.abc import Sequence

from runtimes.protocol import TokenScores
from runtimes.torch_encoder import LabelledEncoder


class TorchTagger(LabelledEncoder):
    """Implements `runtimes.protocol.TokenTagger`; `labels` in the order of the outputs."""

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
