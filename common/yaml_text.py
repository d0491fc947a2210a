"""YAML that somebody else may have written: plain values only, and none that grow when read.

    value = parse_yaml(text)   # raises yaml.YAMLError for all that is wrong with it

Aliases let a few lines stand for billions of values (and for one that holds itself); tags can name
Python objects. The first are counted before anything is built, the second are not known.
"""

from __future__ import annotations

from typing import Any

import yaml

_MOST_VALUES = 100_000
_MOST_CHARACTERS = 1 << 20


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises `yaml.YAMLError`."""
    if len(text) > _MOST_CHARACTERS:
        raise yaml.YAMLError("it is too large")
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _values(node, {}) > _MOST_VALUES:
                raise yaml.YAMLError(f"it stands for more than {_MOST_VALUES} values")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, OverflowError) as error:  # a date that is none, a number of 5000 digits
        raise yaml.YAMLError(f"a value in it is none: {error}") from None


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for when each alias is written out."""
    if id(node) in known:
        if not known[id(node)]:
            raise yaml.YAMLError("an alias in it holds itself")
        return known[id(node)]
    known[id(node)] = 0  # while it is being counted
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inner = list(node.value)
    elif isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    known[id(node)] = 1 + sum(_values(part, known) for part in inner)
    return known[id(node)]
