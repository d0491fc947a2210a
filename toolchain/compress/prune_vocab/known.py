"""Whether the layout knows every tensor that has the vocabulary's rows: asked before any work."""

from __future__ import annotations

from collections.abc import Mapping

from common.errors import UserError
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.layout import Place


def require_known(info: CheckpointInfo, places: Mapping[str, Place]) -> None:
    """Raise `UserError` for a tensor that may have the vocabulary's rows and is in no layout."""
    for tensor in info.tensors:
        place = places[tensor.name]
        if place.axes is None and place.layer is None and info.vocab_size in tensor.shape:
            raise UserError(
                f"{tensor.name} has as many rows as the vocabulary, and no layout says what they "
                "are",
                "add the tensor to the architecture's file in toolchain/compress/prune/layouts",
            )
