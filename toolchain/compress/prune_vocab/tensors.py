"""The weights with the kept tokens' rows only; every other tensor as it was."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.layout import find_layout
from toolchain.compress.prune.paged import reader
from toolchain.compress.prune.shape import places
from toolchain.compress.prune_vocab.known import require_known


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
