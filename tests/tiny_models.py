"""Tiny random checkpoints for tests: real architectures, real tokenizers, made in a second.

The weights mean nothing; shapes, files and tokenizers are those of a real checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SENTENCES = (
    "Turn on the lamp in the kitchen and set it to 40 percent, please.",
    "The quick brown fox jumps over the lazy dog; it isn't afraid of 12345 hounds.",
    "Quantization keeps a model's answers while its weights shrink to four bits.",
    "把客厅的灯打开，亮度调到百分之五十。然后关掉空调。",
    "naïve café — façade, über, señor; 3.14 < 22/7 && x != y",
    "def f(a, b):\n    return a + b  # indentation\n\n\nprint(f(1, 2))",
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def tiny_tokenizer(folder: Path, vocab: int, *, chat_template: bool = True) -> int:
    """Train a byte-level BPE tokenizer with Qwen2's regex into `folder`; its size (at most `vocab`,
    at least the 256 bytes and three special tokens)."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([*SENTENCES] * 2, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    if chat_template:
        fast.chat_template = CHATML
    fast.save_pretrained(folder)
    return len(fast)


def tiny_llama(
    folder: Path,
    *,
    hidden: int = 256,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    ffn: int = 512,
    vocab: int = 320,
    tied: bool = False,
    chat_template: bool = True,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    seed: int = 0,
) -> Path:
    """A random Llama checkpoint of these sizes in `folder`, made the same way for the same seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    size = tiny_tokenizer(folder, vocab, chat_template=chat_template)
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate_size=ffn,
        vocab_size=size,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=SPECIALS.index("<|im_end|>"),
        pad_token_id=SPECIALS.index("<|endoftext|>"),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    return folder


def tiny_wordpiece(folder: Path) -> int:
    """An uncased WordPiece tokenizer like BERT's in `folder`; its size. Its pieces are the words
    of `SENTENCES` and every character of them (tokenizers' own trainer breaks ties by chance)."""
    from tokenizers import normalizers, pre_tokenizers
    from transformers import BertTokenizer

    normal, split = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    texts = [normal.normalize_str(sentence) for sentence in SENTENCES]
    words = {word for text in texts for word, _ in split.pre_tokenize_str(text)}
    letters = set("abcdefghijklmnopqrstuvwxyz0123456789").union(*words)
    pieces = [*BERT_SPECIALS, *sorted(words | letters | {f"##{letter}" for letter in letters})]
    ids = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = BertTokenizer(vocab=ids, do_lower_case=True, model_max_length=128)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def tiny_bert(
    folder: Path,
    *,
    labels: Sequence[str] = ("negative", "positive"),
    task: Literal[
        "sequence-classification", "token-classification", "embedding"
    ] = "sequence-classification",
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    ffn: int = 128,
    seed: int = 0,
) -> Path:
    """A random BERT encoder of 128 positions in `folder`, with the head of `task` (an embedding
    model has none), made the same way for the same seed. Its answers vary with the text."""
    import torch
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertForTokenClassification,
        BertModel,
    )

    folder.mkdir(parents=True, exist_ok=True)
    size = tiny_wordpiece(folder)
    config = BertConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=ffn,
        vocab_size=size,
        max_position_embeddings=128,
        pad_token_id=BERT_SPECIALS.index("[PAD]"),
        initializer_range=0.2,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    network = {
        "sequence-classification": BertForSequenceClassification,
        "token-classification": BertForTokenClassification,
        "embedding": BertModel,
    }[task]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network(config)
    model.save_pretrained(folder)
    return folder
