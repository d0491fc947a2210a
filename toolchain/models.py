"""Open a model of any kind to ask it things: checkpoint, adapter, GGUF file or bundle.

    with open_model("build/edgeforge-demo/laptop", OpenOptions(context_tokens=2048)) as model:
        answer = model.runtime.generate(model.prompt_ids(messages), 64)

A kind is a module with

    matches(path: Path) -> bool
    open_path(path: Path, options: OpenOptions) -> OpenModel

and one row in `KINDS`; the first that matches opens the model.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.closing import Closing
from common.errors import UserError
from common.shell import typed_path
from runtimes.protocol import Runtime
from runtimes.streaming import Stream

KINDS = {
    "gguf": "toolchain.model_kinds.gguf",
    "bundle": "toolchain.model_kinds.bundle",
    "adapter": "toolchain.model_kinds.adapter",
    "onnx": "toolchain.model_kinds.onnx",
    "checkpoint": "toolchain.model_kinds.checkpoint",
}


@dataclass(frozen=True)
class OpenOptions:
    """`context_tokens` is for one sequence (at most what the model was trained for is used);
    `parallel` prompts can be answered together; `exact` asks an engine for float32 throughout;
    `base` is an adapter's base where it does not lie at the place that the adapter names;
    `threads` None takes the cores that are idle now. `as_shipped`: a bundle's own context and, at
    most, its own threads take the place of these."""

    context_tokens: int = 2048
    parallel: int = 8
    exact: bool = False
    trust_remote_code: bool = False
    base: Path | None = None
    threads: int | None = None
    as_shipped: bool = False


@dataclass
class OpenModel(Closing):
    """A loaded model with all that prompts and reports need; `close` frees it.

    `companion` is a folder with the model's chat format and, for a checkpoint, its companion data.
    `bos_token_id` is set when the tokenizer begins texts with it.
    """

    name: str
    kind: str
    runtime: Runtime
    stream: Stream
    context_tokens: int
    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    bos_token_id: int | None
    companion: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    on_close: Sequence[Callable[[], object]] = ()

    def close(self) -> None:
        """Free the engine and what lay beside it."""
        self.runtime.close()
        for close in self.on_close:
            close()
        self.on_close = ()

    def prompt_ids(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation that the model is to go on with.

        A model without chat template gets the messages' plain text.
        """
        if not self.chat_template:
            plain = "\n".join(str(message["content"]) for message in messages)
            return self.runtime.tokenize(plain, add_special=True)
        from toolchain.data.chat import render_chat

        text = render_chat(
            self.chat_template,
            messages,
            bos_token=self.bos_token,
            eos_token=self.eos_token,
            add_generation_prompt=True,
        )
        return self.runtime.tokenize(text)

    def as_json(self) -> dict[str, Any]:
        """What a report says of the model."""
        return {"name": self.name, "kind": self.kind, **self.facts}


def open_model(model: str, options: OpenOptions | None = None) -> OpenModel:
    """Open `demo`, a folder, a hub id, a `.gguf` file or a bundle.

    Raises `UserError` when it is missing, damaged or of no known kind.
    """
    path = model_path(model, options or OpenOptions())
    for name in KINDS.values():
        kind = importlib.import_module(name)
        if kind.matches(path):
            opened: OpenModel = kind.open_path(path, options or OpenOptions())
            return opened
    from toolchain.checkpoint.lookalikes import what_it_is

    raise UserError(*what_it_is(path))


def model_path(model: str, options: OpenOptions) -> Path:
    """Where the model lies; a hub id is downloaded. Raises `UserError` when it is missing."""
    path = typed_path(model)
    if model and path.exists():
        return path.absolute()
    if path.suffix == ".gguf":
        raise UserError(f"model file {model} is missing", "build it first, or check the path")
    from toolchain.checkpoint.locate import locate

    return locate(model, trust_remote_code=options.trust_remote_code)
