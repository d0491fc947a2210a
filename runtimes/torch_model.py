"""Run a causal language model of transformers in torch: tokens, logits, greedy answers, a stream.

The caller loads network and tokenizer (weights, adapters and precision are its matter):

    model = TorchModel(network, tokenizer, eog_token_ids=[2], context_tokens=512)
    answer = model.generate(model.tokenize("Hello"), max_new_tokens=32)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from runtimes.grouped import GreedyGroup, Grouped
from runtimes.hf_text import HuggingFaceText
from runtimes.protocol import Generation, require_prompt, require_room
from runtimes.streaming import TokenChooser

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TorchModel(Grouped, HuggingFaceText):
    """A loaded network with its tokenizer. Implements `runtimes.protocol.Runtime` and, with
    `stream`, `runtimes.streaming.Stream`.

    Ends an answer at `eog_token_ids`; `parallel` prompts are decoded together by `generate_many`;
    `on_close` is called once by `close`.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        *,
        eog_token_ids: Sequence[int],
        context_tokens: int,
        parallel: int = 16,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(tokenizer)
        self._network = network
        self._on_close = on_close
        self._eog_token_ids = frozenset(eog_token_ids)
        self._vocab_size = int(network.get_output_embeddings().weight.shape[0])
        # Padded prompts need their positions told; a network that does not take them runs alone.
        takes_positions = "position_ids" in inspect.signature(network.forward).parameters
        self.parallel = parallel if takes_positions else 1
        self._takes_positions = takes_positions
        self.context_tokens = context_tokens

    def close(self) -> None:
        """Let go of the network."""
        if self._network is not None:
            self._network = None
            self._on_close()

    @property
    def vocab_size(self) -> int:
        """The network's width; a tokenizer may know fewer tokens."""
        return self._vocab_size

    @property
    def eog_token_ids(self) -> frozenset[int]:
        return self._eog_token_ids

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after each token, `[tokens, vocabulary]`, computed without a cache."""
        import torch

        require_room(self, len(token_ids))
        with torch.inference_mode():
            ids = torch.tensor([list(token_ids)], device=self._open().device)
            rows: NDArray[np.float32] = self._open()(input_ids=ids).logits[0].float().cpu().numpy()
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
        import torch

        require_prompt(self, prompt_ids, max_new_tokens)
        stops = self._eog_token_ids if stop_ids is None else frozenset(stop_ids)
        choose = TokenChooser(temperature, seed, top_p)
        network, cache = self._open(), None
        step = list(prompt_ids)
        for _ in range(max_new_tokens):
            with torch.inference_mode():
                ids = torch.tensor([step], device=network.device)
                output = network(input_ids=ids, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            token = choose(output.logits[0, -1].float().cpu().numpy())
            if token in stops:
                return
            yield token
            step = [token]

    def _generate_group(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: frozenset[int]
    ) -> list[Generation]:
        """Decode prompts together, padded on the left, until each has ended."""
        import torch

        network = self._open()
        group = GreedyGroup(len(prompts), max_new_tokens, stops)
        ids, mask = _padded(prompts, network.device)
        cache = None
        while True:
            with torch.inference_mode():
                output = network(**self._inputs(ids, mask), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            best = output.logits[:, -1].argmax(-1)
            if group.take(best.tolist()):
                return group.generations(self.detokenize)
            ids = best[:, None]
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)

    def _inputs(self, ids: Any, mask: Any) -> dict[str, Any]:
        """Arguments of the network for the newest `ids`, whose history `mask` covers."""
        if not self._takes_positions:
            return {"input_ids": ids}
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}

    def _open(self) -> Any:
        if self._network is None:
            raise ValueError("the model is closed")
        return self._network


def _padded(prompts: Sequence[Sequence[int]], device: Any) -> tuple[Any, Any]:
    """Ids `[prompts, longest]` with 0 on the left, and the mask that leaves these out."""
    import torch

    width = max(map(len, prompts))
    rows = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)
