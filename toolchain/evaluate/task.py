"""Task score: the share of prompts that a model answers exactly right, decoding greedily."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from common.errors import UserError
from runtimes.llama import LlamaModel
from toolchain.data.chat import render_chat
from toolchain.data.text import TaskExample

_SPARE_TOKENS = 8
Example = TypeVar("Example")


@dataclass(frozen=True)
class TaskAnswer:
    """One prompt's last turn, the right answer and the model's, both without white space around."""

    prompt: str
    expected: str
    answer: str
    stopped: bool

    @property
    def right(self) -> bool:
        return self.answer == self.expected

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "right": self.right}


def choose_examples(examples: Sequence[Example], cap: int, seed: int) -> list[Example]:
    """At most `cap` examples, chosen by `seed`, in their order."""
    if len(examples) <= cap:
        return list(examples)
    chosen = sorted(random.Random(seed).sample(range(len(examples)), cap))
    return [examples[i] for i in chosen]


def answer_examples(
    file: Path,
    examples: Sequence[TaskExample],
    *,
    kv_cache_type: str = "f16",
    parallel: int = 16,
    threads: int | None = None,
    adapter: Path | None = None,
) -> list[TaskAnswer]:
    """Answers of a GGUF, its prompts rendered by the template inside it, `parallel` at a time.

    An answer may be a little longer than the longest right one, and then is wrong anyway.
    """
    prompts, longest_answer = _prompts(file, examples)
    max_new_tokens = longest_answer + _SPARE_TOKENS
    with LlamaModel(
        file,
        context_tokens=max(map(len, prompts)) + max_new_tokens,
        kv_cache_type=kv_cache_type,
        parallel=min(parallel, len(prompts)),
        threads=threads,
        adapter=adapter,
    ) as model:
        generations = model.generate_many(prompts, max_new_tokens)
    return [
        TaskAnswer(
            prompt=example.messages[-1]["content"],
            expected=example.answer.strip(),
            answer=generation.text.strip(),
            stopped=generation.stopped,
        )
        for example, generation in zip(examples, generations, strict=True)
    ]


def _prompts(file: Path, examples: Sequence[TaskExample]) -> tuple[list[list[int]], int]:
    """Token ids of every prompt, and the length of the longest right answer in tokens."""
    with LlamaModel(file, context_tokens=64, threads=1) as model:
        template = model.chat_template
        if not template:
            raise UserError(
                f"{file.name} has no chat template, so the task's prompts cannot be rendered",
                "give the checkpoint a chat template, or leave the task out",
            )
        prompts = [
            model.tokenize(
                render_chat(
                    template,
                    example.messages,
                    bos_token=_token_text(model, model.bos_token_id),
                    eos_token=_token_text(model, model.eos_token_id),
                    add_generation_prompt=True,
                )
            )
            for example in examples
        ]
        return prompts, max(len(model.tokenize(example.answer)) for example in examples)


def _token_text(model: LlamaModel, token: int | None) -> str | None:
    return None if token is None else model.detokenize([token], special=True)
