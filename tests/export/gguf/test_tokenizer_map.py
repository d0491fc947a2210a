"""Every pre-tokenizer that the map names is really llama.cpp's: tokens compared on real text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import SENTENCES

from common.errors import UserError
from toolchain.export.gguf import tokenizer_map
from toolchain.export.gguf.tokenizer_map import pre_tokenizer_name, scores_from_merges

COMBINING = "नमस्ते दुनिया"
TEXTS = (
    *SENTENCES,
    "I'M sure he'd say WE'LL go; they've 1234567 apples, 3.14159 pies and 42 '",
    "  leading spaces,\ttabs\t\tand\n\n\nnewlines   \n  mixed  ",
    "Größe übermäßig; ΑΒΓ αβγ; наш дом — тут; こんにちは世界 한국어",
    COMBINING,
    "emoji 😀🚀 and ### --- !!! ??? <tag attr='x'/> http://a.b/c?d=e#f CamelCaseWord HTTPServer",
)
DIGITS = {"type": "Digits", "individual_digits": True}


def _split(regex: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": regex},
        "behavior": "Isolated",
        "invert": False,
    }


def _byte_level(*, use_regex: bool, add_prefix_space: bool = False) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


# llama.cpp's expressions of these names do not treat combining marks as their tokenizers do.
WITHOUT_MARKS = {"gpt-4o", "tekken"}
LAST = _byte_level(use_regex=False)
CASES: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "gpt-2": ([_byte_level(use_regex=True)], False),
    "smollm": ([DIGITS, _byte_level(use_regex=True)], False),
    "qwen2": ([_split(tokenizer_map.QWEN2), LAST], False),
    "qwen35": ([_split(tokenizer_map.QWEN35), LAST], False),
    "llama-bpe": ([_split(tokenizer_map.LLAMA3), LAST], True),
    "smaug-bpe": ([_split(tokenizer_map.LLAMA3), LAST], False),
    "gpt-4o": ([_split(tokenizer_map.GPT4O), LAST], False),
    "granite-embed-multi-97m": ([_split(tokenizer_map.GPT4O), LAST], True),
    "tekken": ([_split(tokenizer_map.TEKKEN), LAST], True),
    "falcon": (
        [
            {"type": "Punctuation", "behavior": "Contiguous"},
            _byte_level(use_regex=True),
            {"type": "Digits", "individual_digits": False},
            _split("[0-9][0-9][0-9]"),
        ],
        False,
    ),
    "deepseek-v3": (
        [
            _split(r"\p{N}{1,3}"),
            _split("[一-龥぀-ゟ゠-ヿ]+"),
            _split(tokenizer_map.DEEPSEEK3),
            LAST,
        ],
        False,
    ),
}


def _train(folder: Path, steps: list[dict[str, Any]], *, ignore_merges: bool = False) -> Any:
    """A user-trained byte-level BPE tokenizer with these pre-tokenizer steps."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    empty = Tokenizer(models.BPE())
    data = json.loads(empty.to_str())
    inner = {"type": "Sequence", "pretokenizers": steps} if len(steps) > 1 else steps[0]
    data["pre_tokenizer"] = inner
    data["model"]["ignore_merges"] = ignore_merges
    tokenizer = Tokenizer.from_str(json.dumps(data))
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 2, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def _vocab_file(folder: Path, pre: str) -> Path:
    """A GGUF with the tokenizer alone, as the converter would write it."""
    import gguf

    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer = gguf.GGUFWriter(folder / "vocab.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL if t == "<|end|>" else gguf.TokenType.NORMAL for t in tokens]
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "vocab.gguf"


@pytest.mark.parametrize("name", CASES)
def test_structure_gives_the_name_and_llama_cpp_the_same_tokens(name: str, tmp_path: Path) -> None:
    import llama_cpp

    steps, ignore_merges = CASES[name]
    tokenizer = _train(tmp_path, steps, ignore_merges=ignore_merges)
    assert pre_tokenizer_name(tmp_path) == name
    path = str(_vocab_file(tmp_path, name))
    llama = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    try:
        for text in TEXTS:
            if text == COMBINING and name in WITHOUT_MARKS:
                continue
            theirs = llama.tokenize(text.encode(), add_bos=False, special=False)
            assert theirs == tokenizer.encode(text, add_special_tokens=False).ids, text
    finally:
        llama.close()


def test_a_wrong_name_would_be_noticed(tmp_path: Path) -> None:
    """The comparison above can fail: GPT-2's split is not Qwen2's."""
    import llama_cpp

    tokenizer = _train(tmp_path, CASES["qwen2"][0])
    llama = llama_cpp.Llama(str(_vocab_file(tmp_path, "gpt-2")), vocab_only=True, verbose=False)
    try:
        same = [
            llama.tokenize(text.encode(), add_bos=False) == tokenizer.encode(text).ids
            for text in TEXTS
        ]
    finally:
        llama.close()
    assert not all(same)


def test_spellings_of_one_expression_are_one() -> None:
    spelled = tokenizer_map.QWEN2.replace(r"\r\n", "\r\n").replace(
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
    )
    assert spelled != tokenizer_map.QWEN2
    assert tokenizer_map.normalise(spelled) == tokenizer_map.QWEN2


@pytest.mark.parametrize(
    ("steps", "normalizer", "reason"),
    [
        ([_split("[a-z]+"), LAST], None, r"does not know: \[a-z\]\+"),
        ([{"type": "Whitespace"}, LAST], None, "does not know: <Whitespace>"),
        ([_byte_level(use_regex=True, add_prefix_space=True)], None, "add_prefix_space"),
        ([_byte_level(use_regex=True)], {"type": "Lowercase"}, "Lowercase"),
    ],
)
def test_what_llama_cpp_cannot_follow_is_refused(
    tmp_path: Path, steps: list[dict[str, Any]], normalizer: Any, reason: str
) -> None:
    _train(tmp_path, steps)
    path = tmp_path / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["normalizer"] = normalizer
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match=reason):
        pre_tokenizer_name(tmp_path)


def test_other_kinds_need_no_name(tmp_path: Path) -> None:
    assert pre_tokenizer_name(tmp_path) is None and not scores_from_merges(tmp_path)
    pieces = {"model": {"type": "BPE", "byte_fallback": True, "merges": ["a b"], "vocab": {}}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(pieces), encoding="utf-8")
    assert pre_tokenizer_name(tmp_path) is None and scores_from_merges(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"pieces with scores")
    assert not scores_from_merges(tmp_path)
