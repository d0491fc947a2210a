"""A network of which one layer at a time is in memory: its weights come from the shards when the
layer runs, and go when it is done.

    with PagedNetwork(info, layout) as network:
        inputs = network.layer_inputs(batches)
        for layer in range(network.layers):
            with network.loaded(layer) as module: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from common.errors import UserError
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.calibration import Batch
from toolchain.compress.prune.layout import Layout, place_of, prefix_of
from toolchain.layer_widths import network_class

_LOAD_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError)


class Read(Protocol):
    """Gives a tensor by its name, as float32; with `rows` only those of its rows, in that order."""

    def __call__(self, name: str, rows: torch.Tensor | None = None) -> torch.Tensor: ...


@dataclass
class LayerInputs:
    """What enters the first layer, a tensor [rows, tokens, hidden] a batch, and how each layer is
    called: `keywords[batch][layer]`."""

    hidden: list[torch.Tensor]
    keywords: list[list[dict[str, Any]]] = field(default_factory=list)


def reader(info: CheckpointInfo) -> Read:
    """Reads tensors of a checkpoint as float32, each from its shard when asked for. What is float32
    there or left out by `rows` stays on disk: the system maps the file and can drop its pages."""
    from safetensors import safe_open

    files = {tensor.name: tensor.file for tensor in info.tensors}

    def read(name: str, rows: torch.Tensor | None = None) -> torch.Tensor:
        with safe_open(files[name], framework="pt") as shard:
            tensor: torch.Tensor = shard.get_tensor(name)
        if rows is not None:
            tensor = tensor[rows]
        return tensor.float() if tensor.is_floating_point() else tensor

    return read


class PagedNetwork:
    """`config` is that of the network to build, of which `names` are the parameters' names;
    `read` gives their values."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        layout: Layout,
        prefix: str,
        names: Sequence[str],
        read: Read,
    ) -> None:
        self._read = read
        self._network = _empty(folder, config)
        places = {name: place_of(layout, prefix, name) for name in names}
        self._own = {
            number: [name for name, place in places.items() if place.layer == number]
            for number in sorted({p.layer for p in places.values() if p.layer is not None})
        }
        self.modules = self._network.get_submodule(f"{prefix}{layout.layer}")
        embedding = self._body().get_input_embeddings()
        self._embedding = next(
            f"{name}.weight" for name, part in self._network.named_modules() if part is embedding
        )
        body = {id(weight) for weight in self._body().parameters()}
        there = {name for name, weight in self._network.named_parameters() if id(weight) in body}
        self._outside = [n for n, place in places.items() if place.layer is None and n in there]
        self._network.eval()

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.modules)

    def layer_inputs(self, batches: Sequence[Batch]) -> LayerInputs:
        """What the layers are called with, found by running the network with none of them."""
        inputs = LayerInputs([])
        real = list(self.modules)
        with self._before_layers(torch.cat([batch.ids.flatten() for batch in batches]).unique()):
            for batch in batches:
                seen: list[dict[str, Any]] = []
                first: list[torch.Tensor] = []
                for number, layer in enumerate(real):
                    self.modules[number] = _Recorder(layer, seen, first)
                try:
                    with torch.no_grad():
                        self._body()(input_ids=batch.ids, attention_mask=batch.valid.long(),
                                     **self._without_cache())  # fmt: skip
                finally:
                    for number, layer in enumerate(real):
                        self.modules[number] = layer
                inputs.hidden.append(first[0])
                inputs.keywords.append(seen)
        return inputs

    @contextmanager
    def loaded(self, layer: int) -> Iterator[Any]:
        """The layer's module with its weights."""
        for name in self._own[layer]:
            self._set(name, self._read(name))
        try:
            yield self.modules[layer]
        finally:
            self.modules[layer].to("meta")

    @contextmanager
    def _before_layers(self, token_ids: torch.Tensor) -> Iterator[None]:
        """The weights outside the layers and the head; of the embedding, which may be larger than
        any layer, the rows of these tokens: pages that are not written take no memory."""
        for name in self._outside:
            if name == self._embedding:
                rows = torch.empty(self._wanted(name))
                rows[token_ids] = self._read(name, token_ids)
                self._set(name, rows)
            else:
                self._set(name, self._read(name))
        try:
            yield
        finally:
            for name in self._outside:
                self._set(name, torch.empty(self._wanted(name), device="meta"))

    def _body(self) -> Any:
        return self._network.base_model

    def _without_cache(self) -> dict[str, Any]:
        return {"use_cache": False} if hasattr(self._network.config, "use_cache") else {}

    def _wanted(self, name: str) -> tuple[int, ...]:
        owner, _, leaf = name.rpartition(".")
        return tuple(getattr(self._network.get_submodule(owner), leaf).shape)

    def _set(self, name: str, value: torch.Tensor) -> None:
        owner, _, leaf = name.rpartition(".")
        if self._wanted(name) != tuple(value.shape):
            raise UserError(
                f"{name} is {list(value.shape)}, the network wants {list(self._wanted(name))}"
            )
        weight = torch.nn.Parameter(value, requires_grad=False)
        setattr(self._network.get_submodule(owner), leaf, weight)


class _Recorder(torch.nn.Module):  # type: ignore[misc]
    """Stands for a layer: notes how it is called and hands its input on."""

    def __init__(self, layer: Any, seen: list[dict[str, Any]], first: list[torch.Tensor]) -> None:
        super().__init__()
        self._layer = [layer]  # in a list, so that it is no submodule
        self._seen, self._first = seen, first

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._layer[0], name)

    def forward(self, hidden: torch.Tensor, *args: Any, **keywords: Any) -> Any:
        if args:  # by name, as `run_layer` gives them
            names = list(inspect.signature(self._layer[0].forward).parameters)[1:]
            keywords = {**dict(zip(names, args, strict=False)), **keywords}
        if not self._first:
            self._first.append(hidden)
        self._seen.append({**keywords, "use_cache": False} if "use_cache" in keywords else keywords)
        return hidden


def run_layer(module: Any, hidden: torch.Tensor, keywords: Mapping[str, Any]) -> torch.Tensor:
    """What the layer makes of its input."""
    made = module(hidden, **keywords)
    found: torch.Tensor = made[0] if isinstance(made, tuple) else made
    return found


def open_paged(info: CheckpointInfo, layout: Layout) -> PagedNetwork:
    """The checkpoint's own network."""
    names = [tensor.name for tensor in info.tensors]
    return PagedNetwork(
        info.path, info.config, layout, prefix_of(layout, info), names, reader(info)
    )


def _empty(folder: Path, config: Mapping[str, Any]) -> Any:
    """The network without memory for weights; buffers are real."""
    import transformers
    from accelerate import init_empty_weights

    try:
        kind = network_class(config)
        own = transformers.AutoConfig.for_model(**_plain(config))
        with init_empty_weights(include_buffers=False):
            return kind._from_config(own, dtype=torch.float32)
    except _LOAD_FAULTS as error:
        raise UserError(
            f"the network of {folder} does not load in torch: {' '.join(str(error).split())[:300]}",
            "check config.json; pruning takes architectures that transformers itself has",
        ) from None


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "transformers_version"}
