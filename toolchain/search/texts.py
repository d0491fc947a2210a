"""The calibration text in two parts: one makes candidates, one ranks them.

The evaluation text is in neither: it measures the best candidate once, when the search is over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.folders import make_folder
from toolchain.data.text import TextSource, read_documents, require_held_out, write_text

FIT, SCORE = "calibration.txt", "search.txt"
_EVERY = 4  # every fourth document is scored
_FEWEST = 8  # documents; fewer are cut into pieces
_PIECE_CHARACTERS = 800


@dataclass(frozen=True)
class SearchTexts:
    """`fit` makes candidates (importance matrix, pruning), `score` ranks them, `evaluation`
    measures the best once. `fit_file` is what the recipe names."""

    fit: TextSource
    score: TextSource
    evaluation: TextSource
    fit_file: Path


def split_texts(calibration: TextSource, evaluation: TextSource, folder: Path) -> SearchTexts:
    """Write both parts into `folder`, the same for the same text. Raises `UserError` when the text
    is too short for two parts, or when a part shares a document with the evaluation text."""
    require_held_out(calibration, evaluation)
    documents = list(dict.fromkeys(document.strip("\n") for document in calibration.documents))
    if len(documents) < _FEWEST:
        documents = list(dict.fromkeys(p for d in documents for p in _pieces(d)))
    score = [document for i, document in enumerate(documents) if i % _EVERY == _EVERY - 1]
    fit = [document for i, document in enumerate(documents) if i % _EVERY != _EVERY - 1]
    if not score:
        raise UserError(
            f"calibration text {calibration.name} is too short to be parted: "
            f"{len(documents)} pieces",
            "give a longer one, some ten thousand tokens, in a recipe (export.calibration)",
        )
    make_folder(folder)
    made = [_written(folder / name, part) for name, part in ((FIT, fit), (SCORE, score))]
    return SearchTexts(made[0], made[1], evaluation, folder / FIT)


def _written(path: Path, documents: Sequence[str]) -> TextSource:
    """The part as a build reads it back from the file."""
    from common.files import sha256_json

    draft = TextSource(path.name, tuple(documents), "", "given")
    write_text(draft, path)
    found = tuple(read_documents(path))
    return TextSource(path.name, found, sha256_json(list(found)), "given")


def _pieces(document: str) -> list[str]:
    """A long document at white space, some hundred characters each."""
    words = re.findall(r"\S+\s*", document)
    pieces, now = [], ""
    for word in words:
        now += word
        if len(now) >= _PIECE_CHARACTERS:
            pieces.append(now.strip("\n"))
            now = ""
    return [*pieces, now.strip("\n")] if now.strip() else pieces
