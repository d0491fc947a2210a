"""What an export backend leaves for the bundle: the model that ships, and how it was made and
proven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolchain.artifact import Artifact


@dataclass(frozen=True)
class Exported:
    """`makers` are the stages between checkpoint and `model`, in order; `reference_quality` is that
    of the unquantized file; `tried` are the records of the choice, for manifest and report;
    `adapter` goes beside the model, unmerged. `speeds` is what was timed to choose: no two builds
    time alike, so it goes into the log and not into what ships."""

    model: Artifact
    makers: tuple[Artifact, ...]
    parity: Artifact
    quality: Artifact
    reference_quality: Artifact
    tried: tuple[dict[str, Any], ...]
    within_budget: bool
    adapter: Artifact | None = None
    speeds: Mapping[str, Any] = field(default_factory=dict)
