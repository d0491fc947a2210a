"""What a network is to be in its file: settled before its blocks are made."""

from __future__ import annotations

from pydantic import Field

from common.strict import Strict
from targets.quantization import MIXED


class Mix(Strict):
    """Which type each tensor of a file gets: the export's settings of these names. `mixed` says
    that the tensor types were chosen one by one (`toolchain.export.gguf.mixed`)."""

    quantization: str
    tensor_types: dict[str, str] = Field(default_factory=dict)
    pure: bool = False
    mixed: bool = False

    @property
    def label(self) -> str:
        """What the file is called."""
        return MIXED if self.mixed else self.quantization


class ExactPlan(Mix):
    """`types` are the tensor types by the names of the network's parameters. They follow from the
    mix; an importance matrix takes no part. `every` is after how many steps slow types find their
    blocks anew; null: 1, and 4 for K-quants."""

    types: dict[str, str]
    every: int | None = Field(default=None, ge=1)
