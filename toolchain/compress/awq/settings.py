"""How scales are searched before rounding: the recipe's section `awq`.

Nothing heavy is imported: reading a recipe reads these fields.
"""

from __future__ import annotations

from pydantic import Field

from common.strict import Strict


class Awq(Strict):
    """Settings of the scale search (AWQ). Channels that see large inputs are made larger in the
    weights that read them, and smaller where they come from; the model stays the same function."""

    quantization: str = Field(
        default="Q4_0",
        min_length=1,
        description="type of the file that the scales are searched for (Q4_0, Q4_K_M, …)",
    )
    steps: int = Field(
        default=10, ge=1, le=100, description="strengths that are tried, evenly between 0 and 1"
    )
    rows: int = Field(
        default=256, ge=1, description="rows of each weight that the search rounds, evenly spread"
    )
    calibration_tokens: int = Field(
        default=16384, ge=512, description="tokens of the calibration text that are read"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="which calibration texts are taken")
