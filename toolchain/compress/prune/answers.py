"""What a network answers, as log-probabilities that another network's can be held against: the next
token's of a decoder, the label's of a classifier; or, of an encoder without a head, its vectors.

    with open_network(path) as network:
        kind = answer_kind(path)
        answers(network, batch, kind)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from toolchain.checkpoint.architectures import encoder_model_types
from toolchain.checkpoint.inspect import inspect
from toolchain.compress.prune.calibration import Batch
from toolchain.hf import torch_model

# `tokens`: log-probabilities at each token; `texts`: of each text; `vectors`: last hidden states.
Kind = Literal["tokens", "texts", "vectors"]
_CLASSIFY, _TAG = "ForSequenceClassification", "ForTokenClassification"


def is_encoder(checkpoint: Path) -> bool:
    """Whether it reads whole texts rather than going on with them."""
    info = inspect(checkpoint)
    name = info.architecture or ""
    return info.model_type in encoder_model_types() and not name.endswith(
        ("CausalLM", "LMHeadModel")
    )


def answer_kind(checkpoint: Path) -> Kind:
    """What its network answers with."""
    name = inspect(checkpoint).architecture or ""
    if name.endswith(_CLASSIFY):
        return "texts"
    return "vectors" if is_encoder(checkpoint) and not name.endswith(_TAG) else "tokens"


@contextmanager
def open_network(checkpoint: Path) -> Iterator[Any]:
    """The checkpoint in torch, with the head that it has."""
    name = inspect(checkpoint).architecture or ""
    head = next((head for head in (_CLASSIFY, _TAG) if name.endswith(head)), None)
    other = "AutoModel" if is_encoder(checkpoint) else "AutoModelForCausalLM"
    auto_class = f"AutoModel{head}" if head else other
    with torch_model(checkpoint, auto_class=auto_class) as network:
        yield network


def answers(network: Any, batch: Batch, kind: Kind) -> torch.Tensor:
    """[tokens or texts, choices] log-probabilities, or [tokens, hidden] vectors of length one."""
    made = network(input_ids=batch.ids, attention_mask=batch.valid.long())
    if kind == "vectors":
        vectors: torch.Tensor = made.last_hidden_state[batch.valid].float()
        return torch.nn.functional.normalize(vectors, dim=-1)
    logits: torch.Tensor = made.logits if kind == "texts" else made.logits[batch.valid]
    return logits.float().log_softmax(-1)


def distance(wanted: torch.Tensor, found: torch.Tensor, kind: Kind) -> torch.Tensor:
    """By row: KLD in nats, or one minus the cosine."""
    if kind == "vectors":
        return 1 - (wanted * found).sum(-1)
    return (wanted.exp() * (wanted - found)).sum(-1)
