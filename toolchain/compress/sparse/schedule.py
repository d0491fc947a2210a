"""How much is zero after each pass of a gradual schedule.

The cubic schedule of Zhu and Gupta 2017 (arXiv:1710.01878): much at first, little at the end. A
pattern goes weight by weight of its group, so passes that would add none are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolchain.compress.sparse.settings import Sparsify


@dataclass(frozen=True)
class Target:
    """What a pass leaves: a share of zeros, or `zeros` of every `size` weights of a row."""

    share: float
    zeros: int | None = None
    size: int | None = None

    def text(self) -> str:
        """For a person."""
        if self.zeros is None or self.size is None:
            return f"{100 * self.share:.1f} % zeros"
        return f"{self.size - self.zeros}:{self.size}"


def targets(settings: Sparsify) -> Sequence[Target]:
    """The passes in order; the last is what the settings ask for."""
    steps = settings.schedule_steps
    shares = [settings.share * (1 - (1 - (step + 1) / steps) ** 3) for step in range(steps)]
    if settings.group is None:
        return [Target(share) for share in shares]
    kept, size = settings.group
    counts = dict.fromkeys(max(1, round(share * size)) for share in shares)
    assert list(counts)[-1] == size - kept
    return [Target(zeros / size, zeros, size) for zeros in counts]
