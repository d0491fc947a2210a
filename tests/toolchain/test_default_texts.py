"""The shipped texts: disjoint, of many kinds, and large enough for what they are used for."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "toolchain" / "assets" / "text"
SEPARATOR = "\n<|document|>\n"
SHINGLE_WORDS = 8


def _documents(name: str) -> list[str]:
    return (FOLDER / name).read_text(encoding="utf-8").rstrip("\n").split(SEPARATOR)


def _shingles(documents: list[str]) -> set[tuple[str, ...]]:
    """Runs of eight words (Chinese: signs), the usual measure of copied text."""
    found: set[tuple[str, ...]] = set()
    for document in documents:
        words = re.findall(r"[\u4e00-\u9fff]|\w+", document.lower())
        found.update(zip(*(words[i:] for i in range(SHINGLE_WORDS)), strict=False))
    return found


@pytest.mark.parametrize("name", ["calibration.txt", "evaluation.txt"])
def test_a_text_is_large_and_varied(name: str) -> None:
    text = "\n".join(_documents(name))
    assert 55_000 < len(text.encode()) < 80_000
    assert len(_documents(name)) >= 40
    assert len(re.findall(r"[\u4e00-\u9fff]", text)) > 2_000
    for sign in ("\n# ", "def ", "#include", "func ", "fn ", "ción", "é", "ü", "User: ", '": '):
        assert sign in text, sign


@pytest.mark.parametrize("name", ["calibration.txt", "evaluation.txt"])
def test_no_document_is_empty_or_filler(name: str) -> None:
    documents = _documents(name)
    assert min(map(len, documents)) > 150
    assert len(set(documents)) == len(documents)
    for first, second in pairwise("\n".join(documents).splitlines()):
        assert first != second or len(first) < 20


def test_the_texts_share_no_run_of_eight_words() -> None:
    shared = _shingles(_documents("calibration.txt")) & _shingles(_documents("evaluation.txt"))
    assert shared == set()
