"""The Hugging Face side: a checkpoint's tokenizer, its weights in torch, where an answer ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import UserError
from runtimes.cgroup import memory_limit
from runtimes.threads import idle_cores

_LOAD_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError)


def load_tokenizer(checkpoint: Path, *, trust_remote_code: bool = False) -> Any:
    """The checkpoint's tokenizer, as `transformers` loads it."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            checkpoint, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except _LOAD_FAULTS as error:
        raise UserError(
            f"the tokenizer of {checkpoint} does not load: {error}",
            "check tokenizer.json (or tokenizer.model) and tokenizer_config.json",
        ) from None


def token_ids(tokenizer: Any, text: str, *, add_special: bool) -> list[int]:
    """The tokenizer's ids of a text; without its warning about texts longer than the context."""
    ids: list[int] = tokenizer(text, add_special_tokens=add_special, verbose=False)["input_ids"]
    return ids


@contextmanager
def torch_model(
    checkpoint: Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> Iterator[Any]:
    """The causal language model, ready to infer; freed at the end.

    Torch computes on the cores that are idle now: its threads wait for each other too. Raises
    `UserError` when memory is too small or the weights do not load.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    torch_dtype = getattr(torch, dtype)
    if device == "cpu":
        _require_memory(checkpoint, torch_dtype.itemsize)
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint,
            dtype=torch_dtype,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
        ).eval()
    except _LOAD_FAULTS as error:
        raise UserError(
            f"the weights of {checkpoint} do not load in torch: {error}",
            "check the weight files, or fetch the checkpoint again",
        ) from None
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, idle_cores()))
    try:
        with torch.inference_mode():
            yield model.to(device)
    finally:
        torch.set_num_threads(threads)


def end_token_ids(checkpoint: Path, tokenizer: Any) -> list[int]:
    """Ids at which the checkpoint ends an answer: of `generation_config.json`, else of
    `config.json`, else the tokenizer's end-of-sequence token."""
    for name in ("generation_config.json", "config.json"):
        path = checkpoint / name
        value = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.is_file() else None
        if value is not None:
            return [int(i) for i in (value if isinstance(value, list) else [value])]
    return [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]


def free_memory_bytes() -> int:
    """Memory that this process may still take; a container's limit counts."""
    import psutil

    free_bytes: int = psutil.virtual_memory().available
    limit = memory_limit()
    return min(free_bytes, limit.limit_bytes - limit.used_bytes) if limit else free_bytes


def _require_memory(checkpoint: Path, bytes_per_weight: int) -> None:
    """Raise when the weights cannot fit; counts tensors from their headers."""
    from toolchain.checkpoint.inspect import inspect

    needed_bytes = int(inspect(checkpoint).parameters * bytes_per_weight * 1.1)
    free_bytes = free_memory_bytes()
    if needed_bytes > free_bytes:
        raise UserError(
            f"not enough memory to run {checkpoint.name} in torch: "
            f"{needed_bytes / 1e9:.1f} GB needed, {free_bytes / 1e9:.1f} GB free",
            "close other programs, add swap, or build on a machine with more memory",
        )
