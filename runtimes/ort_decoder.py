"""Run a decoder's ONNX graph with plain onnxruntime: tokens, logits, greedy answers, a stream.

    model = OrtDecoder(Path("folder"), tokenizer, eog_token_ids=[2], context_tokens=512)
    answer = model.generate(model.tokenize("Hello"), max_new_tokens=32)

Takes the graphs of onnxruntime-genai's model builder and of torch.onnx.export alike; see
`runtimes.ort_graph`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.grouped import GreedyGroup, Grouped
from runtimes.hf_text import HuggingFaceText
from runtimes.ort import SessionSettings, open_session
from runtimes.ort_cache import OrtSequences
from runtimes.ort_graph import decoder_graph
from runtimes.protocol import Generation, require_prompt, require_room
from runtimes.streaming import TokenChooser

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GRAPH = "model.onnx"


class OrtDecoder(Grouped, HuggingFaceText):
    """A decoder in onnxruntime on the CPU. Implements `runtimes.protocol.Runtime` and, with
    `stream`, `runtimes.streaming.Stream`.

    Ends an answer at `eog_token_ids`; `parallel` prompts are decoded together by `generate_many`
    where the graph tells how it wants them padded.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Any,
        *,
        eog_token_ids: Sequence[int],
        context_tokens: int,
        parallel: int = 8,
        settings: SessionSettings | None = None,
    ) -> None:
        super().__init__(tokenizer)
        self.file = folder / GRAPH
        self._session: Any = open_session(self.file, settings)
        self._graph = decoder_graph(self._session, self.file)
        self._eog_token_ids = frozenset(eog_token_ids)
        self.context_tokens = context_tokens
        self.parallel = parallel if self._graph.padding else 1

    def close(self) -> None:
        """Free the session."""
        self._session = None

    @property
    def vocab_size(self) -> int:
        """The width of the logits; a tokenizer may know fewer tokens."""
        return self._graph.vocab_size

    @property
    def eog_token_ids(self) -> frozenset[int]:
        return self._eog_token_ids

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after each token, `[tokens, vocabulary]`, computed in one run."""
        require_room(self, len(token_ids))
        rows: NDArray[np.float32] = self._sequences([token_ids], 0).prefill(all_positions=True)[0]
        return rows

    def stream(
        self,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        stop_ids: Sequence[int] | None = None,
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        top_p: float = 1.0,
    ) -> Iterator[int]:
        """Tokens one by one, see `runtimes.streaming.Stream`; the prompt is computed each time."""
        require_prompt(self, prompt_ids, max_new_tokens)
        stops = self._eog_token_ids if stop_ids is None else frozenset(stop_ids)
        choose = TokenChooser(temperature, seed, top_p)
        sequences = self._sequences([prompt_ids], max_new_tokens)
        row = sequences.prefill()[0]
        for made in range(1, max_new_tokens + 1):
            token = choose(row)
            if token in stops:
                return
            yield token
            if made < max_new_tokens:
                row = sequences.step([token])[0]

    def _groups(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of prompts to decode together. GroupQueryAttention's windowed and capped kernels
        refuse prompts of different lengths, so graphs padded on the right get equal ones alone."""
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])
        group: list[int] = []
        for i in order:
            uneven = bool(group) and lengths[i] != lengths[group[0]]
            if len(group) == self.parallel or (uneven and self._graph.padding == "right"):
                yield group
                group = []
            group.append(i)
        if group:
            yield group

    def _generate_group(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: frozenset[int]
    ) -> list[Generation]:
        """Decode prompts together until each has ended."""
        group = GreedyGroup(len(prompts), max_new_tokens, stops)
        sequences = self._sequences(prompts, max_new_tokens)
        rows = sequences.prefill()
        while True:
            best = [int(token) for token in rows.argmax(-1)]
            if group.take(best):
                return group.generations(self.detokenize)
            rows = sequences.step(best)

    def _sequences(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> OrtSequences:
        if self._session is None:
            raise ValueError("the model is closed")
        return OrtSequences(self._session, self._graph, self.file, prompts, new_tokens)
