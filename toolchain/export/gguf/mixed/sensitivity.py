"""What each tensor costs in each type: KLD with this one quantized and all others as they are.

    costs = sensitivities(network, chunks, weights, folder, kept)

No file is made: a tensor is quantized and dequantized in memory, by ggml's own functions, and the
network runs from its layer on; what lies before is as it was. At these small KLDs the sum of single
ones predicts that of all together within a few percent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from common.files import reserve
from toolchain.compress.exact.rounding import rounded
from toolchain.export.gguf.mixed.kept import Kept

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A run from a layer on is to be the same but for the last bits.
_SAME = 1e-7


@dataclass(frozen=True)
class Weight:
    """A matrix of the network: `parameter` is its name there, `types` what is to be measured,
    `importance` the mean squared input of each column where that is known."""

    parameter: str
    types: tuple[str, ...]
    importance: NDArray[np.float32] | None = None


def sensitivities(
    network: Any,
    chunks: Sequence[Sequence[int]],
    weights: Mapping[str, Weight],
    folder: Path,
    kept: Kept,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, dict[str, float]]:
    """Mean KLD (nats) to the network as it is, by name and type. `chunks` are token ids; logits of
    the network as it is lie in `folder` meanwhile; what is in `kept` is not measured again. The
    network is left as it was."""
    runs = _Runs(network, chunks, folder)
    parameters = dict(network.named_parameters())
    for layer, names in _by_layer(weights, runs.prefix):
        missing = [
            (n, kind) for n in names for kind in weights[n].types if kept.get(n, kind) is None
        ]
        if not missing:
            continue
        with runs.begun_at(layer):
            for name, kind in missing:
                weight = weights[name]
                with _in_type(parameters[weight.parameter], kind, weight.importance):
                    kept.add(name, kind, runs.kld())
                progress()
    return {
        name: {kind: kept.get(name, kind) or 0.0 for kind in weight.types}
        for name, weight in weights.items()
    }


@contextmanager
def _in_type(parameter: Any, kind: str, importance: NDArray[np.float32] | None) -> Iterator[None]:
    before = parameter.data
    parameter.data = rounded(before, kind, importance)
    try:
        yield
    finally:
        parameter.data = before


def _by_layer(weights: Mapping[str, Weight], prefix: str) -> list[tuple[int, list[str]]]:
    """Names by the layer that a run has to begin at, in order; 0 for what lies outside of all."""
    groups: dict[int, list[str]] = {}
    for name, weight in weights.items():
        inside = prefix and weight.parameter.startswith(prefix)
        layer = int(weight.parameter.removeprefix(prefix).split(".")[0]) if inside else 0
        groups.setdefault(layer, []).append(name)
    return sorted(groups.items())


class _Runs:
    """Runs of the network on the same chunks, from any layer on."""

    def __init__(self, network: Any, chunks: Sequence[Sequence[int]], folder: Path) -> None:
        import numpy as np

        self._network = network
        self._ids = [torch.tensor([list(chunk)], device=network.device) for chunk in chunks]
        self.prefix, self._layers = _layer_list(network)
        self._entering: list[Any] = []
        first = self._logits(0)
        size = (sum(map(len, chunks)), first.shape[-1])
        file = folder / "log-probabilities.f32"
        reserve(file, size[0] * size[1] * np.float32().itemsize)
        self._own = np.memmap(file, np.float32, "r+", shape=size)
        for number, rows in enumerate(self._rows()):
            logits = first if number == 0 else self._logits(number)
            self._own[rows] = torch.log_softmax(logits, -1).cpu().numpy()

    def kld(self, chunks: int | None = None) -> float:
        """Mean KLD of the network as it is now to the network as it was; on the first so many
        chunks, or all."""
        total = tokens = 0.0
        for number, rows in list(enumerate(self._rows()))[:chunks]:
            own = torch.from_numpy(self._own[rows]).to(self._network.device)
            total += _kld(own, self._logits(number))
            tokens += len(own)
        return total / tokens

    @contextmanager
    def begun_at(self, layer: int) -> Iterator[None]:
        """Runs begin with what enters this layer of the network as it is now. Where that does not
        give the network's own answers (layers that hand on more than one thing), they begin at
        the start."""
        if layer == 0:
            yield
            return
        self._entering = [self._output(number, layer - 1) for number in range(len(self._ids))]
        real = list(self._layers)
        try:
            self._put([_Passed(one, self) for one in real[:layer]])
            if self.kld(1) > _SAME:
                self._put(real[:layer])
            yield
        finally:
            self._put(real[:layer])
            self._entering = []

    def _put(self, modules: Sequence[Any]) -> None:
        for number, module in enumerate(modules):
            self._layers[number] = module

    def entering(self) -> Any:
        """What the layer gets that the run begins at."""
        return self._entering[self._number]

    def _output(self, number: int, layer: int) -> Any:
        seen: list[Any] = []
        hook = self._layers[layer].register_forward_hook(lambda *called: seen.append(called[-1]))
        self._logits(number)
        hook.remove()
        return seen[0]

    def _logits(self, number: int) -> torch.Tensor:
        self._number = number
        made: torch.Tensor = self._network(self._ids[number], use_cache=False).logits[0]
        return made.float()

    def _rows(self) -> Iterator[slice]:
        start = 0
        for ids in self._ids:
            yield slice(start, start + ids.shape[1])
            start += ids.shape[1]


class _Passed(torch.nn.Module):  # type: ignore[misc]
    """Stands for a layer before the one that a run begins at."""

    def __init__(self, layer: Any, runs: _Runs) -> None:
        super().__init__()
        self._layer = [layer]  # in a list, so that it is no submodule
        self._runs = runs

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._layer[0], name)

    def forward(self, *_args: Any, **_keywords: Any) -> Any:
        return self._runs.entering()


def _layer_list(network: Any) -> tuple[str, Any]:
    """The list of the network's layers, and what their parameters' names begin with."""
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.ModuleList):
            return f"{name}.", module
    return "", []


def _kld(own: torch.Tensor, logits: torch.Tensor) -> float:
    """Sum over tokens of KL(own || other), given `own` log-probabilities and the other's logits,
    both [tokens, vocabulary]. With d their difference less its mean under `own`, KLD is
    log E[exp(d)]: no large numbers cancel, so float32 tells 1e-8 from nothing."""
    weights = own.exp()
    difference = logits - own
    difference -= difference.mean(-1, keepdim=True)  # the weighted mean of small numbers is exact
    difference -= torch.linalg.vecdot(weights, difference).unsqueeze(-1)
    excess = torch.linalg.vecdot(weights, difference.expm1_())
    return float(excess.double().log1p().sum())
