"""Open a model that reads whole texts: a classifier, a tagger of tokens, an embedding model.

    with open_classifier("my-classifier") as model:
        logits = model.engine.scores(["a text"])

A kind is a module with

    task_of(path: Path) -> str | None     # one of TASKS; None where the path is not of this kind
    open_path(path: Path, options: OpenOptions) -> OpenEncoder[Any]

and one row in `KINDS`; the first that knows the path opens the model. Language models are
`toolchain.models`' matter.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from common.closing import Closing
from common.errors import UserError
from runtimes.protocol import Classifier, Embedder, TokenTagger
from toolchain.models import OpenOptions, model_path

KINDS = {
    "bundle": "toolchain.encoder_kinds.bundle",
    "onnx": "toolchain.encoder_kinds.onnx",
    "adapter": "toolchain.encoder_kinds.adapter",
    "gguf": "toolchain.encoder_kinds.gguf",
    "checkpoint": "toolchain.encoder_kinds.checkpoint",
}
CLASSIFICATION = "sequence-classification"
TAGGING = "token-classification"
EMBEDDING = "embedding"
TASKS = (CLASSIFICATION, TAGGING, EMBEDDING)
Engine = TypeVar("Engine", Classifier, Embedder, TokenTagger, Any)


@dataclass
class OpenEncoder(Closing, Generic[Engine]):
    """A loaded model. `companion` is the folder with its own test data, if any; `max_tokens` is how
    long a text may be before it is cut."""

    name: str
    kind: str
    task: str
    engine: Engine
    companion: Path
    max_tokens: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    def as_json(self) -> dict[str, Any]:
        """What a report says of the model."""
        facts = {"task": self.task, "max_tokens": self.max_tokens, **self.facts}
        return {"name": self.name, "kind": self.kind, **facts}


def encoder_task(model: str, options: OpenOptions | None = None) -> str | None:
    """What a model is for, one of `TASKS`; `None` for a language model. Nothing is loaded.

    Raises `UserError` when the model is missing.
    """
    path = model_path(model, options or OpenOptions())
    for name in KINDS.values():
        task: str | None = importlib.import_module(name).task_of(path)
        if task is not None:
            return task
    return None


def open_encoder(model: str, options: OpenOptions | None = None) -> OpenEncoder[Any]:
    """Open a classifier, a tagger or an embedding model: a folder, a hub id or an adapter.

    Raises `UserError` when it is missing, damaged, or a language model.
    """
    path = model_path(model, options or OpenOptions())
    for name in KINDS.values():
        kind = importlib.import_module(name)
        if kind.task_of(path) is not None:
            opened: OpenEncoder[Any] = kind.open_path(path, options or OpenOptions())
            return opened
    raise UserError(
        f"{model} is no classifier, tagger or embedding model",
        "a language model answers prompts: edgeforge generate MODEL 'your prompt'",
    )


def open_classifier(model: str, options: OpenOptions | None = None) -> OpenEncoder[Classifier]:
    """Open a sequence classifier. Raises `UserError` for every other model."""
    task = encoder_task(model, options)
    if task in (TAGGING, EMBEDDING):
        raise UserError(f"{model} is for {task}, not a sequence classifier")
    return open_encoder(model, options)


def open_embedder(model: str, options: OpenOptions | None = None) -> OpenEncoder[Embedder]:
    """Open an embedding model. Raises `UserError` for every other model."""
    task = encoder_task(model, options)
    if task in (TAGGING, CLASSIFICATION):
        raise UserError(f"{model} is for {task}, not an embedding model")
    return open_encoder(model, options)
