"""`--map COLUMN=NAME`: a format's columns and what a file calls them."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import UserError


def parse_mapping(options: Sequence[str]) -> dict[str, str]:
    """The format's column → the file's. Raises `UserError` for what is no pair, or comes twice."""
    mapping: dict[str, str] = {}
    for option in options:
        column, equals, name = option.partition("=")
        if not (column and equals and name):
            raise UserError(f"--map {option} is not COLUMN=NAME", "for example: --map question=ask")
        if column in mapping:
            raise UserError(f"--map names '{column}' twice", "give each column once")
        mapping[column] = name
    return mapping
