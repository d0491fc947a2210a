"""Conversations of the demo model and how many of its replies match exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from toolchain.data.home_control import Example, score

SYSTEM_TURN = "You control the devices of a home. Answer with one JSON function call."


def render(example: Example, system: bool = False) -> tuple[str, str]:
    """The prompt and the reply of one example as the chat template writes them."""
    head = f"<|im_start|>system\n{SYSTEM_TURN}<|im_end|>\n" if system else ""
    user = example.messages[0]["content"]
    prompt = f"{head}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    return prompt, f"{example.answer}<|im_end|>\n"


def answers(model: Any, tokenizer: Any, examples: Sequence[Example]) -> Iterator[tuple[int, str]]:
    """Greedy replies in batches of like length; yields the index of the example and its reply."""
    import torch

    prompts = [tokenizer(render(example)[0])["input_ids"] for example in examples]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    tokenizer.padding_side = "left"
    for first in range(0, len(order), 64):
        part = order[first : first + 64]
        inputs = tokenizer.pad({"input_ids": [prompts[i] for i in part]}, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(
                input_ids=inputs["input_ids"].to(model.device), do_sample=False,
                attention_mask=inputs["attention_mask"].to(model.device), max_new_tokens=160,
            )  # fmt: skip
        replies = out[:, inputs["input_ids"].shape[1] :]
        yield from zip(part, tokenizer.batch_decode(replies, True), strict=True)


def evaluate(model: Any, tokenizer: Any, examples: Sequence[Example]) -> dict[str, float]:
    """Exact match overall, by language and by kind, in per cent."""
    hits: dict[str, list[bool]] = {}
    for index, text in answers(model, tokenizer, examples):
        example = examples[index]
        right = score(text, example.answer)
        for name in ("all", example.language, example.kind):
            hits.setdefault(name, []).append(right)
    return {name: round(100 * sum(h) / len(h), 2) for name, h in sorted(hits.items())}
