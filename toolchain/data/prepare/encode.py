"""Conversations as token ids with labels, and short examples packed into full rows.

Loss falls on answers only by default. Where an answer begins and ends is found by rendering the
chat template on prefixes of the conversation, so that templates without `{% generation %}` work.

    encoded = encode_chat(tokenizer, [{"role": "user", ...}, {"role": "assistant", ...}], 512)
    rows = pack([encoded, ...], 512)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from toolchain.data.chat import render_with_tokenizer
from toolchain.hf import token_ids

IGNORED = -100  # the label that torch's cross entropy leaves out
UNLABELLED = -1  # that of a classifier's text for which only its teacher knows a label
_MERGED_TOKENS = 2  # a prompt's last tokens may merge with the answer's first characters


class TooLong(UserError):
    """The prompt leaves no room for an answer."""


@dataclass(frozen=True)
class Encoded:
    """One example. `labels` has the length of `input_ids`; `IGNORED` where there is no loss.

    `truncated`: tokens beyond the context were cut off. `answer_tokens`: the length of each answer,
    end-of-turn token included, before truncation.
    """

    input_ids: list[int]
    labels: list[int]
    truncated: bool = False
    answer_tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Packed:
    """Several examples in one row of at most the context's length, without padding.

    `position_ids` restart at 0 with every example. `sequence_ids` numbers the example of each token
    from 0; tokens attend only within their own number. `cu_seqlens` are the same borders as offsets
    ([0, end of the first, ..., length]), as variable-length attention kernels take them.
    """

    input_ids: list[int]
    labels: list[int]
    position_ids: list[int]
    sequence_ids: list[int]
    cu_seqlens: list[int]


def encode_chat(
    tokenizer: Any,
    messages: Sequence[dict[str, str]],
    max_tokens: int,
    answers_only: bool = True,
) -> Encoded:
    """A conversation as the model will see it, cut to the first `max_tokens` tokens.

    The ids are those of the whole rendered conversation. Raises `UserError` when the tokenizer has
    no chat template or the template refuses the messages or changes earlier turns as the
    conversation goes on; `TooLong` when nothing of an answer is left within `max_tokens`.
    """
    text = render(tokenizer, messages, prompt=False)
    ids = token_ids(tokenizer, text, add_special=False)
    spans = [
        _answer_span(tokenizer, messages, turn, text, ids)
        for turn, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    labels = [IGNORED] * len(ids) if answers_only else list(ids)
    for start, end in spans:
        labels[start:end] = ids[start:end]
    if spans and min(start for start, _ in spans) >= max_tokens:
        raise TooLong(
            f"the prompt has {spans[0][0]} tokens, so no answer fits into {max_tokens}",
            "shorten it, or give a larger context",
        )
    return Encoded(
        ids[:max_tokens],
        labels[:max_tokens],
        truncated=len(ids) > max_tokens,
        answer_tokens=tuple(end - start for start, end in spans),
    )


def encode_text(tokenizer: Any, text: str, max_tokens: int, pair: str | None = None) -> Encoded:
    """Plain text, or a pair of texts, with the tokenizer's own special tokens; loss on every
    token."""
    ids = token_ids(tokenizer, text, add_special=True, pair=pair)
    return Encoded(ids[:max_tokens], ids[:max_tokens], truncated=len(ids) > max_tokens)


def pack(examples: Sequence[Encoded], max_tokens: int) -> list[Packed]:
    """Examples packed by first fit in decreasing length; the same rows for the same examples.

    The first token of every example has no loss: it would be predicted from its neighbour's last.
    Raises `UserError` when an example is longer than `max_tokens`; empty ones are left out.
    """
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i].input_ids))
    bins: list[list[int]] = []
    room: list[int] = []
    for index in order:
        length = len(examples[index].input_ids)
        if length > max_tokens:
            raise UserError(
                f"example {index} has {length} tokens, a packed row holds {max_tokens}",
                "encode it with the same max_tokens",
            )
        if length == 0:
            continue
        place = next((i for i, free in enumerate(room) if free >= length), None)
        if place is None:
            place = len(bins)
            bins.append([])
            room.append(max_tokens)
        bins[place].append(index)
        room[place] -= length
    return [_join([examples[i] for i in sorted(members)]) for members in bins]


def attention_mask(packed: Packed, dtype: str = "float32") -> Any:
    """A tensor [1, 1, tokens, tokens] to add to scores: 0 where a query (row) may see a key
    (column), else the lowest number of `dtype` (the model's).

    Causal and block-diagonal; a 4-D `attention_mask` of `transformers`, whose eager attention adds
    masks, so that a boolean one would be wrong there.
    """
    import torch

    own = torch.tensor(packed.sequence_ids)
    visible = (own[:, None] == own[None, :]).tril()
    number = getattr(torch, dtype)
    hidden = torch.full(visible.shape, torch.finfo(number).min, dtype=number)
    return hidden.masked_fill(visible, 0)[None, None]


def _join(examples: Sequence[Encoded]) -> Packed:
    row = Packed([], [], [], [], [0])
    for number, example in enumerate(examples):
        length = len(example.input_ids)
        row.input_ids.extend(example.input_ids)
        row.labels.extend([IGNORED, *example.labels[1:]])
        row.position_ids.extend(range(length))
        row.sequence_ids.extend([number] * length)
        row.cu_seqlens.append(len(row.input_ids))
    return row


def _answer_span(
    tokenizer: Any, messages: Sequence[dict[str, str]], turn: int, text: str, ids: list[int]
) -> tuple[int, int]:
    """First and end token of one answer within `ids`, its end-of-turn token included."""
    start = _shared(tokenizer, render(tokenizer, messages[:turn], prompt=True), text, ids)
    last = turn == len(messages) - 1
    done = text if last else render(tokenizer, messages[: turn + 1], prompt=False)
    end = len(ids) if last else _shared(tokenizer, done, text, ids)
    # What a template puts behind the end of the turn (a line break) is never generated.
    stop = tokenizer.eos_token_id
    if stop is not None and stop in ids[start:end]:
        end = start + len(ids[start:end]) - ids[start:end][::-1].index(stop)
    return start, end


def _shared(tokenizer: Any, prefix: str, text: str, ids: list[int]) -> int:
    """How many of `ids` are tokens of `prefix`, which `text` must begin with.

    White space at the end of `prefix` may be missing: templates saved with a final line break
    print it after the generation prompt.
    """
    characters = _equal_at_start(prefix, text)
    own = token_ids(tokenizer, prefix[:characters], add_special=False)
    same = _equal_at_start(own, ids)
    if prefix[characters:].strip() or same < len(own) - _MERGED_TOKENS:
        raise UserError(
            "the chat template writes a prompt differently once it is answered, so the answers "
            "cannot be found in the conversation",
            "mend the template, or give one row per answer (only the last turn the assistant's)",
        )
    return same


def _equal_at_start(left: Sequence[object], right: Sequence[object]) -> int:
    """How many items the two begin with in common."""
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def render(tokenizer: Any, messages: Sequence[dict[str, str]], *, prompt: bool) -> str:
    """The conversation as the chat template writes it, up to where an answer begins with
    `prompt`. Raises `UserError` when there is no template or it refuses."""
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template",
            "give the model's chat version, or a checkpoint with chat_template.jinja",
        )
    return render_with_tokenizer(tokenizer, messages, prompt=prompt)
