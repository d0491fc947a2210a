"""What of a vocabulary stays: the recipe's section `vocabulary`, and the options of the verb.

Nothing heavy is imported: the command line's help is made of these fields.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from common.strict import Strict


class Vocabulary(Strict):
    """Settings of vocabulary pruning. Special and added tokens always stay."""

    text: tuple[Path, ...] = Field(
        default=(),
        description="files whose tokens stay (default: the model's calibration text, and its "
        "training data and task where there are any)",
    )
    min_count: int = Field(
        default=1, ge=1, description="a token stays if the text has it this often"
    )
    keep_bytes: bool = Field(
        default=True, description="keep the byte tokens, so that any text can be written"
    )
    keep_characters: bool = Field(
        default=True,
        description="keep every single character where the tokenizer has no byte tokens",
    )
    multiple: int = Field(
        default=32,
        ge=1,
        description="the size is a multiple of this, filled with the most useful other tokens",
    )
    verify: bool = Field(
        default=True, description="compare the logits of the original and the result in torch"
    )
