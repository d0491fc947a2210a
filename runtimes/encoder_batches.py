"""Texts as padded batches of token ids, those of like length together: for every engine that reads
whole texts (classifiers, taggers, embedding models)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtimes.protocol import Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NO_LIMIT = 1 << 30
_OFFSET_POSITIONS = frozenset(
    ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "xmod", "luke",
     "roberta-prelayernorm", "data2vec-text", "ibert", "esm", "mluke", "bertweet")
)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """`rows` are places in the list of texts; `inputs` are int64 arrays `[rows, longest]`, of which
    an engine takes those that its network knows; `spans` is set where offsets were asked for."""

    rows: tuple[int, ...]
    inputs: Mapping[str, NDArray[np.int64]]
    spans: tuple[tuple[tuple[int, int] | None, ...], ...] = ()


def longest_text(config: Mapping[str, Any], tokenizer: Any, wanted: int) -> int:
    """How many tokens a text may have, special ones included: at most `wanted`, the tokenizer's
    limit, and the positions of the checkpoint's config."""
    limits = [wanted, int(min(tokenizer.model_max_length, _NO_LIMIT))]
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - unused_positions(config))
    return max(1, min(limits))


def unused_positions(config: Mapping[str, Any]) -> int:
    """How many of a checkpoint's positions no token gets: RoBERTa's kind counts from behind the
    padding token's id."""
    if config.get("model_type") not in _OFFSET_POSITIONS:
        return 0
    return int(config.get("pad_token_id") or 0) + 1


def encoder_batches(
    tokenizer: Any,
    texts: Sequence[Text],
    *,
    max_tokens: int,
    batch_size: int = 32,
    with_spans: bool = False,
) -> Iterator[Batch]:
    """Batches of at most `batch_size` texts, each cut to `max_tokens`, padded on the tokenizer's
    side. `with_spans` tells where each token lies in its text (`None` for special tokens)."""
    encoded = [_encode(tokenizer, text, max_tokens, with_spans) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]["input_ids"]))
    for start in range(0, len(order), batch_size):
        rows = tuple(order[start : start + batch_size])
        spans = tuple(_spans(encoded[row]) for row in rows) if with_spans else ()
        yield Batch(rows, _padded(tokenizer, [encoded[row] for row in rows]), spans)


def _encode(tokenizer: Any, text: Text, max_tokens: int, with_spans: bool) -> dict[str, Any]:
    first, second = (text, None) if isinstance(text, str) else text
    return dict(
        tokenizer(
            first,
            second,
            truncation=True,
            max_length=max_tokens,
            return_offsets_mapping=with_spans,
            return_special_tokens_mask=with_spans,
            verbose=False,
        )
    )


def _spans(encoded: Mapping[str, Any]) -> tuple[tuple[int, int] | None, ...]:
    pairs = zip(encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True)
    return tuple(None if special else (int(span[0]), int(span[1])) for span, special in pairs)


def _padded(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.int64]]:
    import numpy as np

    width = max(len(row["input_ids"]) for row in rows)
    left = tokenizer.padding_side == "left"
    fills = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0, "token_type_ids": 0}
    inputs: dict[str, NDArray[np.int64]] = {}
    for name, fill in fills.items():
        if name not in rows[0]:
            continue
        inputs[name] = np.full((len(rows), width), fill, dtype=np.int64)
        for number, row in enumerate(rows):
            length = len(row[name])
            place = slice(width - length, width) if left else slice(0, length)
            inputs[name][number, place] = row[name]
    return inputs
