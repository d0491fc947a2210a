"""Small tokenizers of every kind that models have, each trained on the spot; real ones where a
folder of them is at hand.

    ids = write_tokenizer(folder, "llama3", 400)     # files; sizes and ids for the config

Kinds: byte-level BPE by its family's pre-tokenizer, SentencePiece BPE and Unigram (with their
tokenizer.model, or with tokenizer.json alone: `…-json`), WordPiece, and those of encoders.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_models import BERT_SPECIALS, CHATML, SENTENCES, SPECIALS, tiny_tokenizer, tiny_wordpiece

from toolchain.export.gguf.tokenizer_map import DEEPSEEK3, LLAMA3, QWEN2

Ids = dict[str, Any]
_README = Path(__file__).resolve().parents[1] / "README.md"
_LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
           "<|eot_id|>", "<|im_start|>", "<|im_end|>")  # fmt: skip
_TEXT = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
# Real tokenizers by kind, below the folder that `write_tokenizer` is given.
REAL = {
    "gpt2": "tokenizers/gpt2",
    "wordpiece": "tokenizers/bert-uncased",
    "sp-bpe": "models/stories260K-hf",
    "llama-7m": "models/llama-7M",
    "phi3-vision": "tokenizers/phi3",
}
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
          "vocab.txt")  # fmt: skip


@dataclass(frozen=True)
class _ByteLevel:
    """A byte-level BPE tokenizer: what splits the text, and its special tokens."""

    steps: tuple[Mapping[str, Any], ...]
    specials: tuple[str, ...]
    eos: str
    bos: str | None = None
    pad: str | None = None
    ignore_merges: bool = False
    nfc: bool = False
    adds_bos: bool = False


def _split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def _bytes(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
            "use_regex": use_regex}  # fmt: skip


_LAST, _GPT2 = _bytes(use_regex=False), _bytes(use_regex=True)
_DIGITS = {"type": "Digits", "individual_digits": True}
_BYTE_LEVEL: dict[str, _ByteLevel] = {
    "gpt2": _ByteLevel((_GPT2,), ("<|endoftext|>",), "<|endoftext|>", bos="<|endoftext|>"),
    "qwen": _ByteLevel((_split(QWEN2), _LAST), SPECIALS, "<|im_end|>", pad="<|endoftext|>",
                       nfc=True),
    "llama3": _ByteLevel((_split(LLAMA3), _LAST), _LLAMA3, "<|eot_id|>", bos="<|begin_of_text|>",
                         pad="<|end_of_text|>", ignore_merges=True, adds_bos=True),
    "cl100k": _ByteLevel((_split(LLAMA3), _LAST), SPECIALS, "<|im_end|>", pad="<|endoftext|>"),
    "neox": _ByteLevel((_GPT2,), _TEXT, "<|endoftext|>", bos="<|endoftext|>",
                       pad="<|end|>", nfc=True),
    "starcoder": _ByteLevel((_DIGITS, _GPT2), SPECIALS, "<|im_end|>", pad="<|endoftext|>"),
    "deepseek3": _ByteLevel(
        (_split(r"\p{N}{1,3}"), _split("[一-龥぀-ゟ゠-ヿ]+"), _split(DEEPSEEK3), _LAST),
        SPECIALS, "<|im_end|>", pad="<|endoftext|>"),
    "falcon": _ByteLevel(
        ({"type": "Punctuation", "behavior": "Contiguous"}, _GPT2,
         {"type": "Digits", "individual_digits": False}, _split("[0-9][0-9][0-9]")),
        _TEXT, "<|endoftext|>", pad="<|end|>"),
    "modernbert": _ByteLevel((_GPT2,), ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "[SEP]",
                             bos="[CLS]", pad="[PAD]", nfc=True),
    "roberta": _ByteLevel((_GPT2,), ("<s>", "<pad>", "</s>", "<unk>", "<mask>"), "</s>",
                          bos="<s>", pad="<pad>"),
}  # fmt: skip


def write_tokenizer(
    folder: Path,
    kind: str,
    vocab: int,
    chat_template: str | None = CHATML,
    assets: Path | None = None,
) -> Ids:
    """Write a tokenizer of about `vocab` pieces into `folder`: size and special ids, as a config
    names them. `assets`: a folder with real ones, which are taken where there is one of the
    kind."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "qwen2":
        size = tiny_tokenizer(folder, vocab, chat_template=chat_template is not None)
        if chat_template is not None:
            (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        return _ids(size, None, SPECIALS.index("<|im_end|>"), SPECIALS.index("<|endoftext|>"))
    real = assets / REAL[kind] if assets is not None and kind in REAL else None
    if real is not None and real.is_dir():
        ids = _copied(real, folder)
    elif kind in _BYTE_LEVEL:
        ids = _byte_level(folder, kind, _BYTE_LEVEL[kind], vocab)
    else:
        ids = _WRITERS[kind](folder, vocab)
    if chat_template:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    return ids


def corpus() -> list[str]:
    """What the tokenizers are trained on: sentences, and the project's own page."""
    return [*SENTENCES, *SENTENCES, *_README.read_text(encoding="utf-8").splitlines()]


def _ids(size: int, bos: int | None, eos: int, pad: int | None) -> Ids:
    return {"vocab_size": size, "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}


def _ids_of(folder: Path) -> Ids:
    """Size and ids as transformers reads them from the folder."""
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(folder)
    eos = made.eos_token_id if made.eos_token_id is not None else made.sep_token_id
    return _ids(len(made), made.bos_token_id, eos, made.pad_token_id)


def _copied(real: Path, folder: Path) -> Ids:
    for name in _FILES:
        if (real / name).is_file():
            shutil.copyfile(real / name, folder / name)
    return _ids_of(folder)


def _byte_level(folder: Path, kind: str, row: _ByteLevel, vocab: int) -> Ids:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    data = json.loads(Tokenizer(models.BPE()).to_str())
    steps = list(row.steps)
    data["pre_tokenizer"] = (
        {"type": "Sequence", "pretokenizers": steps} if len(steps) > 1 else steps[0]
    )
    data["model"]["ignore_merges"] = row.ignore_merges
    bpe = Tokenizer.from_str(json.dumps(data))
    bpe.decoder = decoders.ByteLevel()
    if row.nfc:
        bpe.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab, 256 + len(row.specials)),
        special_tokens=list(row.specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(), trainer)
    _add_processor(bpe, kind, row)
    names = {"eos_token": row.eos, "bos_token": row.bos, "pad_token": row.pad}
    if kind in ("modernbert", "roberta"):
        mask = "[MASK]" if kind == "modernbert" else "<mask>"
        names |= {"cls_token": row.bos, "sep_token": row.eos, "mask_token": mask}
        names["unk_token"] = "[UNK]" if kind == "modernbert" else "<unk>"
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        clean_up_tokenization_spaces=False,
        **{key: name for key, name in names.items() if name is not None},
    )
    fast.save_pretrained(folder)
    return _ids(len(fast), fast.bos_token_id, fast.eos_token_id, fast.pad_token_id)


def _add_processor(bpe: Any, kind: str, row: _ByteLevel) -> None:
    from tokenizers import processors

    if kind == "roberta":
        bpe.post_processor = processors.RobertaProcessing(
            (row.eos, bpe.token_to_id(row.eos)), (row.bos, bpe.token_to_id(row.bos)),
            trim_offsets=True, add_prefix_space=False,
        )  # fmt: skip
    elif kind == "modernbert" or row.adds_bos:
        bpe.post_processor = _around(bpe, row.bos, row.eos if kind == "modernbert" else None)


def _around(bpe: Any, first: str | None, last: str | None) -> Any:
    """A template that puts tokens around a text, and between two."""
    from tokenizers import processors

    end = f" {last}" if last else ""
    used = [(token, bpe.token_to_id(token)) for token in (first, last) if token]
    return processors.TemplateProcessing(
        single=f"{first} $A{end}", pair=f"{first} $A{end} $B{end}", special_tokens=used
    )


def _pieces(kind: str, vocab: int, **settings: Any) -> bytes:
    """A SentencePiece model of the corpus."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        model_type=kind,
        vocab_size=vocab,
        byte_fallback=settings.pop("byte_fallback", True),
        normalization_rule_name=settings.pop("rule", "identity"),
        remove_extra_whitespaces=settings.pop("trim", False),
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **settings,
    )
    return model.getvalue()


def _sentencepiece(folder: Path, vocab: int, kind: str, *, keep_model: bool) -> Ids:
    """A Llama's SentencePiece tokenizer: tokenizer.json as `transformers` makes it, and the
    model."""
    from transformers import PreTrainedTokenizerFast

    model = _pieces(kind, max(vocab, 500))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=llama_tokenizer(model, kind),
        unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.save_pretrained(folder)
    if keep_model:
        (folder / "tokenizer.model").write_bytes(model)
    return _ids(len(fast), 1, 2, 0)


def _phi3(folder: Path, vocab: int) -> Ids:
    """Phi-3's: Llama's, without its model, with turns that strip the white space behind them."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    tokenizer = llama_tokenizer(_pieces("bpe", max(vocab, 500)), "bpe")
    turns = ("<|assistant|>", "<|user|>", "<|system|>", "<|end|>")
    whole = [AddedToken(text, normalized=False, rstrip=True, special=True) for text in turns]
    end = AddedToken("<|endoftext|>", normalized=False, special=True)
    tokenizer.add_special_tokens([end, *whole])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="<|endoftext|>",
        pad_token="<|endoftext|>", clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.save_pretrained(folder)
    ids = [tokenizer.token_to_id(text) for text in ("<|endoftext|>", "<|end|>")]
    return _ids(len(fast), 1, ids[1], ids[0])


def llama_tokenizer(model: bytes, kind: str, *, prefix: bool = True) -> Any:
    """The fast form of a SentencePiece model, as Llama's and Gemma's (`prefix=False`) are: spaces
    become `▁`, BPE merges in the order of the scores, bytes for what no piece has."""
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    scored = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.vocab_size())]
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=True))
    else:
        vocab = {piece: number for number, (piece, _) in enumerate(scored)}
        tokenizer = Tokenizer(
            models.BPE(vocab, _merges(scored), unk_token="<unk>", fuse_unk=True,
                       byte_fallback=True)
        )  # fmt: skip
    first = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    specials = [scored[i][0] for i in range(len(scored)) if pieces.is_control(i)]
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text in ("<unk>", *specials)]
    )
    tokenizer.post_processor = _around(tokenizer, "<s>" if prefix else "<bos>", None)
    return tokenizer


def _merges(scored: Sequence[tuple[str, float]]) -> list[tuple[str, str]]:
    """Pairs in the order in which SentencePiece would join them: by the score of what they make,
    then by the ids of their halves."""
    known = {piece: number for number, (piece, _) in enumerate(scored)}
    found = []
    for piece, score in scored:
        pairs = [
            (piece[:cut], piece[cut:])
            for cut in range(1, len(piece))
            if piece[:cut] in known and piece[cut:] in known
        ]
        pairs.sort(key=lambda pair: (known[pair[0]], known[pair[1]]))
        found += [(score, pair) for pair in pairs]
    found.sort(key=lambda entry: -entry[0])
    return [pair for _, pair in found]


def _gemma(folder: Path, vocab: int) -> Ids:
    """Gemma's: SentencePiece BPE without a space in front, turns as pieces of their own."""
    from transformers import PreTrainedTokenizerFast

    model = _pieces(
        "bpe", max(vocab, 500), add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3,
        pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>"],
    )  # fmt: skip
    tokenizer = llama_tokenizer(model, "bpe", prefix=False)
    tokenizer.add_special_tokens(["<start_of_turn>", "<end_of_turn>"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>",
        pad_token="<pad>", clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(model)
    return _ids(len(fast), 2, 1, 0)


def _wordpiece(folder: Path, vocab: int) -> Ids:
    size = tiny_wordpiece(folder)
    return _ids(size, None, BERT_SPECIALS.index("[SEP]"), BERT_SPECIALS.index("[PAD]"))


def _xlm_r(folder: Path, vocab: int) -> Ids:
    """XLM-R's: Unigram with NFKC, ids of fairseq before the pieces, `<mask>` behind them."""
    from transformers import AutoTokenizer

    model = _pieces("unigram", max(vocab, 500), rule="nmt_nfkc", byte_fallback=False,
                    trim=True)  # fmt: skip
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    return _ids_of(folder)


def _deberta(folder: Path, vocab: int) -> Ids:
    """DeBERTa-v2's: Unigram between [CLS] and [SEP]."""
    from sentencepiece import SentencePieceProcessor
    from transformers import DebertaV2Tokenizer

    model = _pieces("unigram", max(vocab, 500))
    pieces = SentencePieceProcessor(model_proto=model)
    kept = range(3, pieces.vocab_size())
    own = [("[PAD]", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[UNK]", 0.0)]
    scored = own + [(pieces.id_to_piece(i), pieces.get_score(i)) for i in kept]
    DebertaV2Tokenizer(vocab=[*scored, ("[MASK]", 0.0)], unk_id=3).save_pretrained(folder)
    (folder / "spm.model").write_bytes(model)
    return _ids_of(folder)


def _of_pieces(kind: str, *, keep_model: bool) -> Callable[[Path, int], Ids]:
    return lambda folder, vocab: _sentencepiece(folder, vocab, kind, keep_model=keep_model)


_WRITERS: dict[str, Callable[[Path, int], Ids]] = {
    "sp-bpe": _of_pieces("bpe", keep_model=True),
    "sp-bpe-json": _of_pieces("bpe", keep_model=False),
    "phi3": _phi3,
    "phi3-vision": _phi3,
    "llama-7m": lambda folder, vocab: _byte_level(folder, "gpt2", _BYTE_LEVEL["gpt2"], vocab),
    "sp-unigram": _of_pieces("unigram", keep_model=True),
    "sp-unigram-json": _of_pieces("unigram", keep_model=False),
    "gemma": _gemma,
    "wordpiece": _wordpiece,
    "xlm-r": _xlm_r,
    "deberta": _deberta,
}
KINDS = ("qwen2", *_BYTE_LEVEL, *_WRITERS)
