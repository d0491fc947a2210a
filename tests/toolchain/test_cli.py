"""The overview is answered without anything heavy; errors have one form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.cli import VERBS, main

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "llama_cpp", "numpy", "pydantic", "yaml", "jinja2", "gguf")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from toolchain.cli import main; main(['--help']); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"edgeforge {verb}" in text.split("examples:")[1]


def test_no_verb_prints_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "usage: edgeforge VERB" in capsys.readouterr().out
