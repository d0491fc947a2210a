"""Settle what blocks a model gets before its file is written: the types of all weights, and what
cannot be done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from runtimes.quantizer import canonical_quantization
from toolchain.artifact import Artifact
from toolchain.checkpoint.config_facts import output_head, token_embedding
from toolchain.checkpoint.inspect import inspect
from toolchain.compress.exact.settings import ExactPlan
from toolchain.compress.exact.types import block_types
from toolchain.compress.sparse.record import kept_tensors
from toolchain.train.job import Kind
from toolchain.train.network import empty_network
from toolchain.train.settings import Finetune

if TYPE_CHECKING:
    from toolchain.compress.distill.stage import Config

_NO_BLOCKS = ("F32", "F16", "BF16")


def exact_plan(source: Artifact, kind: Kind, config: Config) -> ExactPlan:
    """The plan of a distillation with `exact`. Raises `UserError` for a type without blocks, a
    model that has no GGUF form, and zeros that are to be kept."""
    settings = config.settings
    if kind != "causal":
        raise UserError(
            "distill.exact trains the blocks of a GGUF, and a classifier has none",
            "leave exact out",
        )
    plan = block_plan(
        source,
        "distill.exact",
        settings.exact or "",
        tensor_types=config.tensor_types,
        pure=config.pure,
        layers_only=config.layers_only,
        trust_remote_code=config.trust_remote_code,
    )
    return plan.model_copy(update={"every": settings.exact_every})


def require_blocks(key: str, quantization: str) -> str:
    """The quantization as llama.cpp calls it. `UserError` that names the recipe's key where it is
    unknown or has no blocks."""
    quantization = canonical_quantization(quantization)
    if quantization in _NO_BLOCKS:
        raise UserError(f"{key}: {quantization} has no blocks", "take Q4_0, Q8_0 or Q4_K_M")
    return quantization


def block_plan(
    source: Artifact,
    key: str,
    quantization: str,
    *,
    tensor_types: Mapping[str, str],
    pure: bool,
    layers_only: bool = False,
    trust_remote_code: bool = False,
) -> ExactPlan:
    """The types of a model's weights in its file; `key` is the recipe's key that asks for them.
    With `layers_only` embedding and head have none. Raises as `exact_plan`."""
    quantization = require_blocks(key, quantization)
    if kept_tensors(source.path):
        raise UserError(
            "the base's zeros are to be kept, and blocks need not hold a zero",
            f"leave {key} out, or set sparsify.keep_masks to false",
        )
    types = file_types(
        source.path,
        quantization,
        tensor_types=tensor_types,
        pure=pure,
        trust_remote_code=trust_remote_code,
    )
    if layers_only:
        names = [tensor.name for tensor in inspect(source.path).tensors]
        outside = (token_embedding(names), output_head(names))
        types = {name: kind for name, kind in types.items() if name not in outside}
    return ExactPlan(
        quantization=quantization, types=types, tensor_types=dict(tensor_types), pure=pure
    )


def file_types(
    checkpoint: Path,
    quantization: str,
    *,
    with_imatrix: bool = False,
    tensor_types: Mapping[str, str],
    pure: bool,
    trust_remote_code: bool = False,
) -> dict[str, str]:
    """The type of each weight in the file, by the network's names. Raises as `block_types`."""
    network = empty_network(
        checkpoint, "causal", (), Finetune(method="full"), trust_remote_code=trust_remote_code
    )
    return block_types(
        inspect(checkpoint),
        network,
        quantization,
        with_imatrix=with_imatrix,
        tensor_types=tensor_types,
        pure=pure,
    )
