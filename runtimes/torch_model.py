"""Run a causal language model of transformers in torch: tokens, logits, greedy answers, a stream.

The caller loads network and tokenizer (weights, adapters and precision are its matter):

    model = TorchModel(network, tokenizer, eog_token_ids=[2], context_tokens=512)
    answer = model.generate(model.tokenize("Hello"), max_new_tokens=32)
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from runtimes.hf_text import HuggingFaceText
from runtimes.protocol import Generation, require_prompt, require_room
from runtimes.streaming import TokenChooser

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TorchModel(HuggingFaceText):
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

    def generate(
        self,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        stop_ids: Sequence[int] | None = None,
    ) -> Generation:
        """The greedy continuation of a prompt; ends at one of `stop_ids` (default: the model's
        end-of-generation tokens; an empty sequence never stops) or after `max_new_tokens`."""
        return self.generate_many([prompt_ids], max_new_tokens, stop_ids)[0]

    def generate_many(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int] | None = None,
    ) -> list[Generation]:
        """Greedy continuations, `parallel` prompts at a time, those of like length together."""
        stops = self._eog_token_ids if stop_ids is None else frozenset(stop_ids)
        for prompt in prompts:
            require_prompt(self, prompt, max_new_tokens)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers: dict[int, Generation] = {}
        for start in range(0, len(order), self.parallel):
            group = order[start : start + self.parallel]
            made = self._generate_group([prompts[i] for i in group], max_new_tokens, stops)
            answers.update(zip(group, made, strict=True))
        return [answers[i] for i in range(len(prompts))]

    def stream(
        self,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        stop_ids: Sequence[int] | None = None,
        *,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Iterator[int]:
        """Tokens one by one, see `runtimes.streaming.Stream`; the prompt is computed each time."""
        import torch

        require_prompt(self, prompt_ids, max_new_tokens)
        stops = self._eog_token_ids if stop_ids is None else frozenset(stop_ids)
        choose = TokenChooser(temperature, seed)
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
        start = time.perf_counter()
        ids, mask = _padded(prompts, network.device)
        tokens: list[list[int]] = [[] for _ in prompts]
        ends: list[float | None] = [None] * len(prompts)
        stopped = [False] * len(prompts)
        cache, first = None, start
        for step in range(max_new_tokens):
            with torch.inference_mode():
                output = network(**self._inputs(ids, mask), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            best = output.logits[:, -1].argmax(-1)
            now = time.perf_counter()
            first = first if step else now
            for i, token in enumerate(best.tolist()):
                if ends[i] is not None:
                    continue
                stopped[i] = token in stops
                if not stopped[i]:
                    tokens[i].append(token)
                if stopped[i] or len(tokens[i]) == max_new_tokens:
                    ends[i] = now
            if None not in ends:
                break
            ids = best[:, None]
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        return [
            Generation(
                tuple(row), self.detokenize(row), stop, first - start, (end or first) - first
            )
            for row, stop, end in zip(tokens, stopped, ends, strict=True)
        ]

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
