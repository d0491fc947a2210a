"""Answers of a GGUF token by token, keeping the KV cache of what two prompts have in common.

stream = LlamaStream(model)
for token in stream(model.tokenize("Hello"), 32): ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from runtimes.llama import LlamaModel
from runtimes.protocol import require_prompt
from runtimes.streaming import TokenChooser

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class LlamaStream:
    """Implements `runtimes.streaming.Stream` over an open model.

    In a conversation each prompt begins with the one before, so that only the new turn is computed.
    While a stream is in use its model is not to be used otherwise, nor by a second stream.
    """

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._cached: list[int] = []

    def __call__(
        self,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        stop_ids: Sequence[int] | None = None,
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        top_p: float = 1.0,
    ) -> Iterator[int]:
        model = self._model
        require_prompt(model, prompt_ids, max_new_tokens)
        stops = model.eog_token_ids if stop_ids is None else frozenset(stop_ids)
        choose = TokenChooser(temperature, seed, top_p)
        kept = self._keep_common(prompt_ids)
        self._decode(prompt_ids[kept:])
        for count in range(1, max_new_tokens + 1):
            token = choose(self._last_logits())
            if token in stops:
                return
            yield token
            if count < max_new_tokens:
                self._decode([token])

    def _keep_common(self, prompt_ids: Sequence[int]) -> int:
        """Drop what the cache holds beyond the prompt's beginning; how many tokens stay.

        At least the last prompt token is computed anew, since its logits are needed.
        """
        import llama_cpp

        model, common = self._model, 0
        limit = min(len(self._cached), len(prompt_ids) - 1)
        while common < limit and self._cached[common] == prompt_ids[common]:
            common += 1
        memory = llama_cpp.llama_get_memory(model._context)
        # Other calls of the model clear the cache; then its length is no longer ours.
        ours = llama_cpp.llama_memory_seq_pos_max(memory, 0) == len(self._cached) - 1
        # Recurrent models cannot forget a part of what they read.
        if not ours or not common or not llama_cpp.llama_memory_seq_rm(memory, 0, common, -1):
            model._emptied()
            common = 0
        self._cached = self._cached[:common]
        return common

    def _decode(self, token_ids: Sequence[int]) -> None:
        batch = self._model._batch
        if batch is None:
            raise ValueError("the model is closed")
        for start in range(0, len(token_ids), batch.capacity):
            part = token_ids[start : start + batch.capacity]
            batch.clear()
            for i, token in enumerate(part):
                last = start + i == len(token_ids) - 1
                batch.add(token, len(self._cached) + i, 0, wants_logits=last)
            batch.decode(self._model._context)
            self._cached += part

    def _last_logits(self) -> NDArray[np.float32]:
        import llama_cpp
        import numpy as np

        row = llama_cpp.llama_get_logits_ith(self._model._context, -1)
        logits: NDArray[np.float32] = np.ctypeslib.as_array(row, (self._model.vocab_size,))
        return logits
