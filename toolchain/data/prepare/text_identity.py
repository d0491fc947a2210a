"""When two texts count as the same, and which language a text is in, by its script."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

_HAN = (("\u3400", "\u9fff"), ("\uf900", "\ufaff"), ("\U00020000", "\U0003ffff"))
_KANA_HANGUL = (("\u3040", "\u30ff"), ("\u1100", "\u11ff"), ("\uac00", "\ud7af"))
_HAN_SHARE = 0.2  # one Han sign says about as much as four letters
_FOREIGN_SHARE = 0.01


def normalise(text: str) -> str:
    """The text without differences of width, case and white space (NFKC, casefold)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def digest(parts: Sequence[str]) -> bytes:
    """16 bytes that are the same for parts that normalise to the same."""
    joined = "\x00".join(normalise(part) for part in parts)
    return hashlib.blake2b(joined.encode(), digest_size=16).digest()


def language(text: str) -> str:
    """'zh', 'en' or 'other', by script alone: Han signs without kana or hangul are Chinese; Latin
    letters with (almost) no accents are taken for English; all else, also no letters, is other."""
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return "other"
    han = sum(_within(c, _HAN) for c in letters)
    if any(_within(c, _KANA_HANGUL) for c in letters):
        return "other"
    if han / len(letters) >= _HAN_SHARE:
        return "zh"
    foreign = sum(not c.isascii() for c in letters)
    return "en" if foreign / len(letters) <= _FOREIGN_SHARE else "other"


def _within(character: str, ranges: Sequence[tuple[str, str]]) -> bool:
    return any(low <= character <= high for low, high in ranges)
