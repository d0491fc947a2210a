"""Token ids that config.json and generation_config.json name: found, and renumbered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_ENDINGS = ("_token_id", "_token_ids", "_token_index")
_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")


def named_ids(config: Mapping[str, Any]) -> set[int]:
    """Every id, nested configs included; negative ones mean none."""
    return {i for key, value in config.items() for i in _ids(key, value)}


def renumbered(config: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """The config with new ids. An id that no token has becomes null, or leaves its list."""
    return {key: _renumber(key, value, new) for key, value in config.items()}


def _is_named(key: str) -> bool:
    return key.endswith(_ENDINGS) or key in _LISTS


def _ids(key: str, value: Any) -> Iterator[int]:
    if isinstance(value, Mapping):
        yield from named_ids(value)
    elif _is_named(key):
        yield from _flat(value)


def _flat(value: Any) -> Iterator[int]:
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    elif type(value) is int and value >= 0:
        yield value


def _renumber(key: str, value: Any, new: Mapping[int, int]) -> Any:
    if isinstance(value, Mapping):
        return renumbered(value, new)
    return _mapped(value, new) if _is_named(key) else value


def _mapped(value: Any, new: Mapping[int, int]) -> Any:
    if isinstance(value, list):
        made = [_mapped(one, new) for one in value]
        return [one for one in made if one is not None and one != []]
    if type(value) is int and value >= 0:
        return new.get(value)
    return value
