"""How weights are rounded by calibration: the recipe's section `gptq`.

Nothing heavy is imported: reading a recipe reads these fields.
"""

from __future__ import annotations

from pydantic import Field

from common.strict import Strict


class Gptq(Strict):
    """Settings of rounding by calibration (GPTQ) into the blocks of a GGUF's type. Linear modules
    inside the layers are rounded so; embedding and head to the nearest."""

    quantization: str = Field(
        default="Q4_0",
        min_length=1,
        description="type of the file, with llama.cpp's own mix of types (Q4_0, Q8_0, Q4_K_M, …), "
        "or mixed: each tensor's own, by the section mixed",
    )
    damping: float = Field(
        default=0.01, gt=0, le=1, description="of the Hessian's mean diagonal, added to it"
    )
    calibration_tokens: int = Field(
        default=16384, ge=512, description="tokens of the calibration text that are read"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="which calibration texts are taken")
