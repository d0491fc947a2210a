"""Whether llama.cpp will cut text as this tokenizer does, told without transformers.

The converter names a byte-level BPE tokenizer by a hash of the ids of one text; the text and the
hashes are read from its source. Where it does not know the hash, the structure may still tell
(`toolchain.export.gguf.tokenizer_map`).
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from common.damage import is_panic, told_as_damage
from common.errors import UserError
from runtimes.vendored import llama_cpp_folder
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.export.gguf.tokenizer_map import pre_tokenizer_name, scores_from_merges

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
_FUNCTION, _TEXT, _HASH = "get_vocab_base_pre", "chktxt", "chkhsh"


def tokenizer_limits(info: CheckpointInfo) -> list[str]:
    """What is special about the tokenizer. Raises `UserError` when llama.cpp cannot follow it."""
    if not (info.path / TOKENIZER).is_file():
        return [] if info.tokenizer_kind == "sentencepiece" else [_untold(info)]
    try:
        pre_tokenizer_name(info.path)
    except UserError:
        if known_by_hash(info.path):
            return []
        raise
    if scores_from_merges(info.path):
        return ["the tokenizer lost its pieces' scores; they are made anew of its merges"]
    return []


def known_by_hash(folder: Path) -> bool:
    """Whether the converter knows this tokenizer. Raises `UserError` when it does not load."""
    text, hashes = _table()
    with told_as_damage(folder / TOKENIZER, "fetch the tokenizer's files again"):
        ids = load(folder).encode(text).ids
    return hashlib.sha256(str(ids).encode()).hexdigest() in hashes


def load(folder: Path) -> Tokenizer:
    """The tokenizer of tokenizer.json. Raises `UserError` when it does not load."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / TOKENIZER))
    except BaseException as error:  # tokenizers raises plain Exception, or a panic of its own
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise UserError(
            f"{TOKENIZER} does not load: {error}", "fetch the tokenizer's files again"
        ) from None


@cache
def _table() -> tuple[str, frozenset[str]]:
    """The text that the converter hashes, and the hashes that it knows."""
    source = llama_cpp_folder() / "conversion" / "base.py"
    tree = ast.parse(source.read_text(encoding="utf-8"))
    function = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == _FUNCTION
    )
    texts = [n.value for n in ast.walk(function) if isinstance(n, ast.Assign) and _sets(n, _TEXT)]
    return str(ast.literal_eval(texts[0])), frozenset(_compared(function))


def _sets(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def _compared(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if not (isinstance(node, ast.Compare) and isinstance(node.left, ast.Name)):
            continue
        for value in node.comparators if node.left.id == _HASH else ():
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value


def _untold(info: CheckpointInfo) -> str:
    return (
        f"no {TOKENIZER} beside a tokenizer of kind {info.tokenizer_kind}: only the converter can "
        "tell whether it knows it; save it with transformers' save_pretrained to be sure"
    )
