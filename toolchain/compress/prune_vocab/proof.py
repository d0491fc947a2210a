"""Proof that the smaller model is the same on the kept text, and what other text costs now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from toolchain.compress.prune_vocab.choose import Kept
from toolchain.hf import token_ids, torch_model

if TYPE_CHECKING:
    from toolchain.checkpoint.info import CheckpointInfo

LIMIT = 1e-5
_MOST_TOKENS = 512
_ROW_TOKENS = 128


@dataclass(frozen=True)
class Tokenizers:
    """The original's and the result's, as transformers loads them."""

    old: Any
    new: Any


def check_tokens(
    tokenizers: Tokenizers, documents: Iterable[str], new: Mapping[int, int]
) -> dict[str, int]:
    """Every document of which all tokens were kept has the same tokens, with special tokens added
    and without. Raises `UserError` at the first that has not."""
    same = changed = tokens = 0
    for document in documents:
        for add_special in (True, False):
            old = token_ids(tokenizers.old, document, add_special=add_special)
            if not all(token_id in new for token_id in old):
                changed += 1
                break
            wanted = [new[token_id] for token_id in old]
            found = token_ids(tokenizers.new, document, add_special=add_special)
            if wanted != found:
                raise _difference(tokenizers.new, document, wanted, found)
        else:
            same += 1
            tokens += len(wanted)
    return {"documents_equal": same, "documents_changed": changed, "tokens_equal": tokens}


def held_out(
    tokenizers: Tokenizers, documents: Iterable[str], new: Mapping[int, int]
) -> dict[str, float]:
    """What text that was not kept costs: tokens before and after, the share of its tokens that the
    vocabulary has no more, and tokens that cannot be written, before and after."""
    before = after = gone = unknown_before = unknown_after = 0
    for document in documents:
        old = token_ids(tokenizers.old, document, add_special=False)
        found = token_ids(tokenizers.new, document, add_special=False)
        before, after = before + len(old), after + len(found)
        gone += sum(token_id not in new for token_id in old)
        unknown_before += _unknown(tokenizers.old, old)
        unknown_after += _unknown(tokenizers.new, found)
    return {
        "tokens_before": before,
        "tokens_after": after,
        "share_gone": gone / before if before else 0.0,
        "unknown_before": unknown_before,
        "unknown_after": unknown_after,
    }


def check_logits(
    source: CheckpointInfo, made: Path, rows: Sequence[Sequence[int]], kept: Kept
) -> dict[str, float]:
    """The result's outputs on rows of kept tokens equal the original's for the kept tokens.

    Raises `UserError` when they differ by more than `LIMIT` of the largest.
    """
    import torch

    held = []
    with torch_model(source.path, auto_class=_network(source)) as network:
        for row in rows:
            out = _output(network, row)
            if out.shape[-1] == source.vocab_size:
                out = out[..., torch.tensor(kept.ids)]
            held.append(out.clone())
    worst = largest = 0.0
    with torch_model(made, auto_class=_network(source)) as network:
        for row, wanted in zip(rows, held, strict=True):
            out = _output(network, [kept.new[token_id] for token_id in row])
            worst = max(worst, float((out - wanted).abs().max()))
            largest = max(largest, float(wanted.abs().max()))
    limit = LIMIT * max(1.0, largest)
    if not worst <= limit:
        raise UserError(
            f"the model with fewer tokens gives other logits: {worst:.2g} apart, limit {limit:.2g}",
            "its architecture uses token ids in a way that this stage does not know",
        )
    return {"max_abs_diff": worst, "limit": limit, "tokens": sum(map(len, rows))}


def logit_rows(tokenizer: Any, documents: Iterable[str], kept: Kept) -> list[list[int]]:
    """Rows of old ids that all stay, at most `_MOST_TOKENS` tokens of them."""
    rows: list[list[int]] = []
    room = _MOST_TOKENS
    for document in documents:
        row = token_ids(tokenizer, document, add_special=True)[: min(_ROW_TOKENS, room)]
        if len(row) > 1 and all(token_id in kept.new for token_id in row):
            rows.append(row)
            room -= len(row)
        if room < 2:
            break
    return rows


def _network(info: CheckpointInfo) -> str:
    import transformers

    name = info.architecture
    return name if name and hasattr(transformers, name) else "AutoModelForCausalLM"


def _output(network: Any, row: Sequence[int]) -> Any:
    import torch

    out = network(input_ids=torch.tensor([row]))
    found = out.logits if hasattr(out, "logits") else out.last_hidden_state
    return found.float()


def _unknown(tokenizer: Any, ids: Sequence[int]) -> int:
    return 0 if tokenizer.unk_token_id is None else ids.count(tokenizer.unk_token_id)


def _difference(tokenizer: Any, document: str, wanted: list[int], found: list[int]) -> UserError:
    at = next(
        (i for i, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b),
        min(len(wanted), len(found)),
    )
    names = tokenizer.convert_ids_to_tokens
    return UserError(
        f"the smaller tokenizer cuts {document[:40]!r} otherwise: at token {at} "
        f"{names(found[at : at + 4])}, not {names(wanted[at : at + 4])}",
        "this tokenizer cannot be cut on this text: leave prune-vocab out",
    )
