"""A checkpoint's tensors as they are, for writing it anew with some of them changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.layout import Layout
from toolchain.compress.prune.paged import reader
from toolchain.compress.prune.shape import places


def float32_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the checkpoint when all its tensors are stored in float32."""
    kept = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    return {**kept, "dtype": "float32"}


class OwnTensors:
    """Names, layers, values (float32) and types of a checkpoint's tensors; all have the type
    `dtype` where it is given."""

    def __init__(self, info: CheckpointInfo, layout: Layout, dtype: str | None = None) -> None:
        self.layer_of = {name: place.layer for name, place in places(info, layout).items()}
        self.names = list(self.layer_of)
        self._read = reader(info)
        self._dtypes = {tensor.name: dtype or tensor.dtype for tensor in info.tensors}

    def read(self, name: str) -> torch.Tensor:
        """A tensor."""
        return self._read(name)

    def dtype(self, name: str) -> str:
        """The dtype that safetensors names for it."""
        return self._dtypes[name]
