"""Which architectures the official converter and transformers know, read without running either."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

from common.errors import UserError
from runtimes.vendored import llama_cpp_folder

_CONVERTER_TABLE = "TEXT_MODEL_MAP"
_TRANSFORMERS_TABLE = "CONFIG_MAPPING_NAMES"
_MASKED_TABLE = "MODEL_FOR_MASKED_LM_MAPPING_NAMES"
_SUGGESTED = 3


@cache
def convertible_architectures(converter: Path | None = None) -> frozenset[str]:
    """Architecture names in the table of llama.cpp's converter (`conversion/__init__.py`).

    Raises `UserError` when the converter is not set up or has no such table.
    """
    source = (converter or llama_cpp_folder()) / "conversion" / "__init__.py"
    names = frozenset(_table_keys(source, _CONVERTER_TABLE))
    if not names:
        raise UserError(f"{source} has no table {_CONVERTER_TABLE}", "make setup")
    return names


@cache
def native_model_types() -> frozenset[str]:
    """Model types that transformers has its own code for."""
    package = importlib.util.find_spec("transformers")
    if package is None or package.origin is None:
        raise UserError("transformers is not installed", "make setup")
    auto = Path(package.origin).parent / "models" / "auto"
    names: set[str] = set()
    for name in ("auto_mappings.py", "configuration_auto.py"):
        if (auto / name).is_file():
            names.update(_table_keys(auto / name, _TRANSFORMERS_TABLE))
    return frozenset(names)


@cache
def encoder_model_types() -> frozenset[str]:
    """Model types that transformers can train as masked language models: encoders."""
    package = importlib.util.find_spec("transformers")
    if package is None or package.origin is None:
        raise UserError("transformers is not installed", "make setup")
    source = Path(package.origin).parent / "models" / "auto" / "modeling_auto.py"
    return frozenset(_table_keys(source, _MASKED_TABLE)) if source.is_file() else frozenset()


def near_architectures(name: str, known: Collection[str]) -> list[str]:
    """The known architectures with the most similar names, closest first."""
    lowered = {known_name.lower(): known_name for known_name in sorted(known)}
    hits = difflib.get_close_matches(name.lower(), lowered, n=_SUGGESTED, cutoff=0.6)
    return [lowered[hit] for hit in hits]


def _table_keys(source: Path, table: str) -> Iterator[str]:
    """String keys in every literal with which the module fills the table `table`.

    A key is a dict literal's key or the first item of a pair in a list literal.
    """
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if table not in ast.dump(node):
            continue
        for inner in ast.walk(node):
            keys: list[ast.expr | None] = inner.keys if isinstance(inner, ast.Dict) else []
            if isinstance(inner, ast.Tuple) and len(inner.elts) == 2:
                keys = [inner.elts[0]]
            for key in keys:
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value
