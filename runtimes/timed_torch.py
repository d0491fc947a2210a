"""A checkpoint in torch on the CPU, timed: see `runtimes.timed`. Requests of several clients are
decoded as one batch; with prompts of one length nothing is padded."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from runtimes.timed import RequestTime, Served, TimedOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LOAD_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError)


class TorchDecoder:
    """Implements `runtimes.timed.TimedDecoder` with transformers' network and its default KV cache
    and attention."""

    serving = "batched: clients start together and share each step"

    def __init__(self, path: Path, options: TimedOptions) -> None:
        import torch

        torch.set_num_threads(options.threads)
        self._options = options
        self._network = load_network(path, "AutoModelForCausalLM", options.dtype)
        self._cache: Any = None
        self._token: Any = None

    @property
    def facts(self) -> Mapping[str, Any]:
        network = self._network
        head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
        tied = head.weight.data_ptr() == embedding.weight.data_ptr()
        total = sum(p.numel() * p.element_size() for p in network.parameters())
        unread = 0 if tied else embedding.weight.numel() * embedding.weight.element_size()
        return {
            "vocab_size": int(head.weight.shape[0]),
            "weight_bytes_per_token": total - unread,
            "all_logits": self._options.all_logits,
            "kv_cache_bytes_per_element": head.weight.element_size(),
        }

    def prefill(self, token_ids: Sequence[int]) -> float:
        start = time.perf_counter()
        self._cache, self._token = None, None
        self._step([list(token_ids)], keep=0 if self._options.all_logits else 1)
        return time.perf_counter() - start

    def decode(self, count: int) -> list[float]:
        steps = []
        for _ in range(count):
            start = time.perf_counter()
            self._step(self._token, keep=1)
            steps.append(time.perf_counter() - start)
        return steps

    def serve(self, prompts: Sequence[Sequence[int]], count: int, clients: int) -> Served:
        times: list[RequestTime] = []
        start = time.perf_counter()
        for first in range(0, len(prompts), clients):
            group = [list(prompt) for prompt in prompts[first : first + clients]]
            begin = time.perf_counter()
            self._cache, self._token = None, None
            self._step(group, keep=0 if self._options.all_logits else 1)
            ttft_sec = time.perf_counter() - begin
            for _ in range(count - 1):
                self._step(self._token, keep=1)
            times += [RequestTime(ttft_sec, time.perf_counter() - begin)] * len(group)
        return Served(tuple(times), time.perf_counter() - start)

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            rows = self._network(input_ids=torch.tensor([list(token_ids)])).logits[0]
        result: NDArray[np.float32] = rows.float().numpy()
        return result

    def close(self) -> None:
        self._network = self._cache = self._token = None

    def _step(self, ids: Any, *, keep: int) -> None:
        """Run the network over new tokens `[clients, tokens]` and choose the next of each."""
        import torch

        with torch.inference_mode():
            output = self._network(
                input_ids=torch.as_tensor(ids),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=keep,
            )
            self._cache = output.past_key_values
            self._token = output.logits[:, -1].argmax(-1, keepdim=True)


class TorchEncoder:
    """Implements `runtimes.timed.TimedEncoder`; the network's first output counts: logits of a
    classifier, hidden states of a plain encoder (averaged over the mask for `outputs`)."""

    def __init__(self, path: Path, options: TimedOptions) -> None:
        import torch

        torch.set_num_threads(options.threads)
        self._network = load_network(path, encoder_class(path), options.dtype)

    @property
    def facts(self) -> Mapping[str, Any]:
        config = self._network.config
        positions = getattr(config, "max_position_embeddings", None)
        return {"vocab_size": int(config.vocab_size), "max_tokens": positions}

    def encode(self, token_ids: NDArray[np.int64]) -> float:
        import torch

        start = time.perf_counter()
        ids = torch.from_numpy(token_ids)
        with torch.inference_mode():
            self._network(input_ids=ids, attention_mask=torch.ones_like(ids))
        return time.perf_counter() - start

    def outputs(self, token_ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            result = self._network(
                input_ids=torch.from_numpy(token_ids), attention_mask=torch.from_numpy(mask)
            )
        rows = result["logits"] if "logits" in result else result[0]
        if rows.ndim == 3 and "logits" not in result:
            weights = torch.from_numpy(mask)[..., None].to(rows.dtype)
            rows = (rows * weights).sum(1) / weights.sum(1)
        array: NDArray[np.float32] = rows.float().numpy()
        return array

    def close(self) -> None:
        self._network = None


def open_decoder(path: Path, options: TimedOptions) -> TorchDecoder:
    """Load a causal language model's checkpoint."""
    return TorchDecoder(path, options)


def open_encoder(path: Path, options: TimedOptions) -> TorchEncoder:
    """Load an encoder's checkpoint."""
    return TorchEncoder(path, options)


def encoder_class(path: Path) -> str:
    """The auto class for the head that the checkpoint was saved with."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    name = (getattr(config, "architectures", None) or [""])[0]
    for head in ("SequenceClassification", "TokenClassification"):
        if name.endswith(f"For{head}"):
            return f"AutoModelFor{head}"
    return "AutoModel"


def load_network(path: Path, class_name: str, dtype: str) -> Any:
    """The checkpoint's network in eval mode; `UserError` when it does not load."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        return (
            getattr(transformers, class_name)
            .from_pretrained(
                path,
                dtype=getattr(torch, dtype),
                trust_remote_code=False,
                local_files_only=True,
            )
            .eval()
        )
    except _LOAD_FAULTS as error:
        raise UserError(
            f"the weights of {path} do not load in torch: {error}",
            "check the weight files, or fetch the checkpoint again",
        ) from None
