"""Greedy decoding of many prompts at once: llama.cpp runs one step of all open sequences together.

A sequence that ends frees its slot for the next prompt (continuous batching, as llama-server does).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtimes.llama_handle import Batch
from runtimes.protocol import Generation


@dataclass
class _Sequence:
    index: int
    prompt: Sequence[int]
    started_sec: float
    tokens: list[int] = field(default_factory=list)
    first_sec: float = 0.0
    fed: int = 0  # prompt tokens already in the KV cache


def generate_together(
    context: Any,
    batch: Batch,
    prompts: Sequence[Sequence[int]],
    *,
    slots: int,
    max_new_tokens: int,
    stops: frozenset[int],
    vocab_size: int,
    to_text: Callable[[Sequence[int]], str],
) -> list[Generation]:
    """Greedy continuations in the order of `prompts`; the KV cache must be empty."""
    done: dict[int, Generation] = {}
    waiting = list(enumerate(prompts))[::-1]
    open_: dict[int, _Sequence] = {}
    while waiting or open_:
        for slot in range(slots):
            if slot not in open_ and waiting:
                index, prompt = waiting.pop()
                open_[slot] = _Sequence(index, prompt, time.perf_counter())
        outputs = _fill(batch, open_)
        batch.decode(context)
        for row, slot in outputs:
            sequence = open_[slot]
            token = _best_token(context, row, vocab_size)
            if not sequence.tokens:
                sequence.first_sec = time.perf_counter()
            stopped = token in stops
            if not stopped:
                sequence.tokens.append(token)
            if stopped or len(sequence.tokens) == max_new_tokens:
                done[sequence.index] = _finish(sequence, stopped, to_text)
                del open_[slot]
                _forget(context, slot)
    return [done[i] for i in range(len(prompts))]


def _fill(batch: Batch, open_: dict[int, _Sequence]) -> list[tuple[int, int]]:
    """One decode step of every running sequence, and as much of the prompts as still fits; returns
    (row in the batch, slot) of each token whose logits are wanted."""
    batch.clear()
    outputs = []
    for slot, sequence in open_.items():
        if sequence.fed == len(sequence.prompt):
            outputs.append((len(batch), slot))
            position = sequence.fed + len(sequence.tokens) - 1
            batch.add(sequence.tokens[-1], position, slot, wants_logits=True)
    for slot, sequence in open_.items():
        while sequence.fed < len(sequence.prompt) and len(batch) < batch.capacity:
            last = sequence.fed == len(sequence.prompt) - 1
            if last:
                outputs.append((len(batch), slot))
            token = sequence.prompt[sequence.fed]
            batch.add(token, sequence.fed, slot, wants_logits=last)
            sequence.fed += 1
    return outputs


def _finish(
    sequence: _Sequence, stopped: bool, to_text: Callable[[Sequence[int]], str]
) -> Generation:
    return Generation(
        token_ids=tuple(sequence.tokens),
        text=to_text(sequence.tokens),
        stopped=stopped,
        ttft_sec=sequence.first_sec - sequence.started_sec,
        decode_sec=time.perf_counter() - sequence.first_sec,
    )


def _best_token(context: Any, row: int, vocab_size: int) -> int:
    import llama_cpp
    import numpy as np

    logits = llama_cpp.llama_get_logits_ith(context, row)
    return int(np.ctypeslib.as_array(logits, (vocab_size,)).argmax())


def _forget(context: Any, slot: int) -> None:
    import llama_cpp

    memory = llama_cpp.llama_get_memory(context)
    llama_cpp.llama_memory_seq_rm(memory, slot, -1, -1)
