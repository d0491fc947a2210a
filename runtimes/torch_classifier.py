"""Run a sequence classifier of transformers in torch.

classifier = TorchClassifier(network, tokenizer, labels=("no", "yes"), max_tokens=128)
logits = classifier.scores(["a text", ("a text", "and its pair")])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runtimes.protocol import Text
from runtimes.torch_encoder import LabelledEncoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TorchClassifier(LabelledEncoder):
    """Implements `runtimes.protocol.Classifier`; `labels` in the order of the network's outputs."""

    def scores(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Logits `[texts, labels]`."""
        import numpy as np

        rows = np.empty((len(texts), len(self._labels)), dtype=np.float32)
        for batch, output in self._encoder.outputs(texts):
            rows[list(batch.rows)] = output.logits.float().cpu().numpy()
        return rows
