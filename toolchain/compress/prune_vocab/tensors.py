"""The weights with the kept tokens' rows only; every other tensor as it was."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from common.errors import UserError
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.layout import Place, find_layout
from toolchain.compress.prune.paged import reader
from toolchain.compress.prune.shape import places


class KeptRows:
    """Names, values, dtypes of the result's tensors, as `write_checkpoint` takes them."""

    def __init__(self, info: CheckpointInfo, kept: Sequence[int]) -> None:
        self._places = places(info, find_layout(info))
        self._read, self._kept = reader(info), torch.tensor(kept)
        self._dtypes = {tensor.name: tensor.dtype for tensor in info.tensors}
        self.names = [tensor.name for tensor in info.tensors]
        self.layer_of = {name: place.layer for name, place in self._places.items()}
        require_known(info, self._places)

    def read(self, name: str) -> torch.Tensor:
        """A tensor, as float32."""
        tensor = self._read(name)
        for dim, axis in enumerate(self._places[name].axes or ()):
            if axis == "vocab":
                tensor = tensor.index_select(dim, self._kept)
        return tensor

    def dtype(self, name: str) -> str:
        """The dtype that safetensors names for it."""
        return self._dtypes[name]


def require_known(info: CheckpointInfo, places: dict[str, Place]) -> None:
    """Raise `UserError` for a tensor that may have the vocabulary's rows and is in no layout."""
    for tensor in info.tensors:
        place = places[tensor.name]
        if place.axes is None and place.layer is None and info.vocab_size in tensor.shape:
            raise UserError(
                f"{tensor.name} has as many rows as the vocabulary, and no layout says what they "
                "are",
                "add the tensor to the architecture's file in toolchain/compress/prune/layouts",
            )
