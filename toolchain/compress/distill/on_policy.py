"""On-policy distillation: the student answers, the teacher scores what the student wrote.

So the student learns on texts of its own kind, its mistakes among them, which no data set holds.
Generalised knowledge distillation, Agarwal et al. 2023 (arXiv:2306.13649); `on_policy` is its λ.
Turns and samples follow from seed, step and row alone, so that a run that goes on is the same.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from toolchain.compress.distill.settings import Distill
from toolchain.data.prepare.encode import IGNORED


def is_own_turn(settings: Distill, step: int) -> bool:
    """Whether the student writes the texts of this step."""
    return random.Random(f"{settings.seed} {step}").random() < settings.on_policy


@torch.no_grad()  # type: ignore[untyped-decorator, unused-ignore]
def own_answers(
    network: Any, batch: dict[str, Any], settings: Distill, step: int, pad_token_id: int
) -> dict[str, Any]:
    """A batch of the same prompts with answers that `network` samples (temperature 1); labels are
    on the answers alone. A text without a prompt is prompted by its first half."""
    prompts = [_prompt(ids, labels) for ids, labels in zip(
        batch["input_ids"], batch["labels"], strict=True)]  # fmt: skip
    width = max(map(len, prompts))
    ids = torch.stack([_left_padded(prompt, width, pad_token_id) for prompt in prompts])
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=ids.device)
    mask = (torch.arange(width, device=ids.device) >= width - lengths[:, None]).long()
    training = network.training
    network.eval()
    devices = [ids.device] if ids.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(_seed(settings, step, batch["rows"]))
        written = network.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=settings.on_policy_tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            use_cache=True,
            pad_token_id=pad_token_id,
        )
    network.train(training)
    ends = _ends(network)
    answers = [_until_end(answer, ends) for answer in written[:, width:]]
    return _batch(prompts, answers, batch["rows"], pad_token_id)


def _prompt(ids: Tensor, labels: Tensor) -> Tensor:
    learned = (labels != IGNORED).nonzero()[:, 0]
    if not len(learned):
        return ids[:1]
    first = int(learned[0])
    if first <= 1:  # a text: all but its first token is learned
        first = max(1, (int(learned[-1]) + 1) // 2)
    return ids[:first]


def _left_padded(prompt: Tensor, width: int, pad_token_id: int) -> Tensor:
    return torch.cat([prompt.new_full((width - len(prompt),), pad_token_id), prompt])


def _seed(settings: Distill, step: int, rows: Tensor) -> int:
    return random.Random(f"{settings.seed} {step} {rows.tolist()}").getrandbits(63)


def _ends(network: Any) -> frozenset[int]:
    """Tokens that end an answer."""
    ends = network.generation_config.eos_token_id
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def _until_end(answer: Tensor, ends: frozenset[int]) -> Tensor:
    """The answer with its end token; what follows is padding."""
    stop = next((n for n, token in enumerate(answer.tolist()) if token in ends), len(answer) - 1)
    return answer[: stop + 1]


def _batch(
    prompts: list[Tensor], answers: list[Tensor], rows: Tensor, pad_token_id: int
) -> dict[str, Any]:
    """Prompts with answers, padded on the right; nothing is learned from a row that is none."""
    whole = [torch.cat(pair) for pair in zip(prompts, answers, strict=True)]
    shape = (len(whole), max(map(len, whole)))
    ids = whole[0].new_full(shape, pad_token_id)
    labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
    for number, (row, prompt) in enumerate(zip(whole, prompts, strict=True)):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
        if int(rows[number]) >= 0:
            labels[number, len(prompt) : len(row)] = row[len(prompt) :]
    return {"input_ids": ids, "labels": labels, "attention_mask": mask, "rows": rows}
