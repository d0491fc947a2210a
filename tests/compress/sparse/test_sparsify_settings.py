"""What the settings refuse, and what the verb makes of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from command_line import edgeforge
from tiny_models import tiny_llama

from common.errors import UserError
from common.strict import parse
from toolchain.compress.sparse.settings import Sparsify


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sparsity": 0.96}, "less than or equal to 0.95"),
        ({"sparsity": -0.1}, "greater than or equal to 0"),
        ({"sparsity": math.nan}, "sparsity"),
        ({"pattern": "4:2"}, "below M"),
        ({"pattern": "4:4"}, "below M"),
        ({"pattern": "0:4"}, "at least 1"),
        ({"pattern": "1:32"}, "leaves less than 5%"),
        ({"pattern": "half"}, "a pattern is N:M"),
        ({"pattern": "2:4", "sparsity": 0.5}, "give one of"),
        ({"scope": "global"}, "for method magnitude"),
        ({"scope": "global", "method": "magnitude", "pattern": "2:4"}, "scope layer"),
        ({"pattern": "2:4", "block_columns": 30}, "multiple of 4"),
    ],
)
def test_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(Sparsify, settings, "settings")
    assert said in "\n".join(caught.value.details)


def test_shares() -> None:
    assert Sparsify().share == 0.5
    assert Sparsify(pattern="1:4").share == 0.75


def test_verb(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", hidden=64, ffn=96)
    options = ("sparsify", "--model", base, "--out", tmp_path / "out", "--method", "magnitude")
    made = edgeforge(*options, "--pattern", "2:4")
    assert made.returncode == 0, made.stderr
    assert "zeros: 50.00 %" in made.stdout and "neither the file nor decoding" in made.stdout
    bad = edgeforge(*options, "--sparsity", "1.5")
    assert bad.returncode == 2
    assert "sparsity" in bad.stderr and "Traceback" not in bad.stderr
