"""What an export backend leaves for the bundle: the model that ships, and how it was made and
proven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolchain.artifact import Artifact


@dataclass(frozen=True)
class Exported:
    """`makers` are the stages between checkpoint and `model`, in order; `reference_quality` is that
    of the unquantized file; `tried` are the records of the choice, for manifest and report;
    `adapter` goes beside the model, unmerged."""

    model: Artifact
    makers: tuple[Artifact, ...]
    parity: Artifact
    quality: Artifact
    reference_quality: Artifact
    tried: tuple[dict[str, Any], ...]
    within_budget: bool
    adapter: Artifact | None = None
