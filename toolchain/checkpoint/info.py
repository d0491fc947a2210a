"""What is known of a checkpoint before any weight is read: the types that inspection fills in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.checkpoint.config_facts import text_config


@dataclass(frozen=True)
class TensorHeader:
    """One tensor of a safetensors file. `offset` counts bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """Number of values."""
        count = 1
        for width in self.shape:
            count *= width
        return count


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a checkpoint, and its mend where there is one."""

    problem: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.problem} ({self.mend})" if self.mend else self.problem


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint as its config, tokenizer and tensor headers describe it.

    `faults` are those met while the headers were read; `validate` raises them with all others, so
    tensors and sizes are to be trusted only after it. `parameters` counts tied tensors once.
    `tokenizer_ids` is the highest token id plus one. `companion` is the folder `edgeforge/` with
    calibration, evaluation and task data, when there is one.
    """

    path: Path
    name: str
    architecture: str | None
    model_type: str | None
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    tensors: tuple[TensorHeader, ...]
    weight_files: tuple[Path, ...]
    pickle_files: tuple[Path, ...]
    parameters: int
    weight_bytes: int
    vocab_size: int | None
    context_tokens: int | None
    tied_embeddings: bool
    chat_template: str | None
    eos_token_ids: tuple[int, ...]
    tokenizer_kind: str | None
    tokenizer_ids: int | None
    license_id: str | None
    license_file: Path | None
    companion: Path | None
    faults: tuple[Fault, ...]

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The language model's config: a nested part goes over the outer one."""
        return text_config(self.config)

    @property
    def pickle_only(self) -> bool:
        """Whether the weights are there as pickles alone."""
        return bool(self.pickle_files) and not self.weight_files
