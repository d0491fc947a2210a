"""Stage `onnx-encoder-sensitivity`: which nodes of an encoder must stay in FP32, by measuring.

onnx-encoder (FP32) → sensitivity.json. Every node is left in FP32 alone to see what that gains;
bisection over the nodes in order of gain finds a set that meets the budget, and then every node of
it is taken out again where the budget allows it, until none can be: no smaller set lies within the
one found. All of it on measurement texts that are not those of the final test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from common.files import write_json
from common.progress import progress_bar
from runtimes.ort_encoder import MODEL, OrtEncoder, open_encoder
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.export.onnx import encoder_quality as quality
from toolchain.export.onnx.encoder_data import Examples
from toolchain.export.onnx.encoder_quality import Budget, Measured, divergence
from toolchain.export.onnx.encoder_quantize import (
    Config as QuantizeConfig,
)
from toolchain.export.onnx.encoder_quantize import (
    calibration_batches,
    require_source,
    uses_embeddings,
)
from toolchain.export.onnx.encoder_trials import Trials
from toolchain.export.onnx.encoder_variants import quantizable_nodes
from toolchain.export.onnx.graph_file import load_graph
from toolchain.stage import Input, StageConfig

NAME = "onnx-encoder-sensitivity"
VERSION = 1
TOOLS = ("numpy", "onnx", "onnxruntime", "tokenizers")
FORMAT = "onnx-sensitivity"
FILE = "sensitivity.json"


class Config(StageConfig):
    """`quantize` is the variant to mend (its `exclude` is ignored); `measurement` the texts;
    `ranking_texts` of them, evenly spread, rank the nodes, all of them judge sets of nodes."""

    quantize: QuantizeConfig
    measurement: Input
    budget: Budget = Budget()
    ranking_texts: int = Field(256, ge=8)


@dataclass(frozen=True)
class NodeRow:
    """`gain`: by how much the divergence (`encoder_quality.divergence`) falls when this node
    alone is in FP32. `needed`: what is out of budget when an excluded node is INT8 after all."""

    node: str
    gain: float
    excluded: bool
    needed: str | None


@dataclass(frozen=True)
class Sensitivity:
    """Rows in order of gain. `before` and `after` are the figures without and with the
    exclusions; `trials` counts the sets that were judged."""

    rows: tuple[NodeRow, ...]
    before: Measured
    after: Measured
    trials: int

    @property
    def exclude(self) -> tuple[str, ...]:
        """Nodes to leave in FP32, by gain."""
        return tuple(row.node for row in self.rows if row.excluded)

    def as_json(self) -> dict[str, Any]:
        """The record in sensitivity.json."""
        return {**asdict(self), "exclude": list(self.exclude)}


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Analyse; sensitivity.json in `out_dir`. Raises `UserError` when the texts do not do."""
    require_source(source)
    found = analyse(source.path, config)
    write_json(out_dir / FILE, found.as_json())
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.measurement.digest],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={
            "exclude": list(found.exclude),
            "nodes": len(found.rows),
            "trials": found.trials,
            "before": dict(found.before.figures),
            "after": dict(found.after.figures),
        },
    )


def analyse(folder: Path, config: Config) -> Sensitivity:
    """The smallest set found of nodes that must stay in FP32, and every node's gain."""
    with open_encoder(folder) as plain:
        facts = plain.facts
        examples = quality.read_measurement(config.measurement.path, facts)
        reference = quality.outputs(plain, examples)
        calibration = config.quantize.calibration
        batches = calibration_batches(plain, calibration.path) if calibration else []
    graph = load_graph(folder / MODEL, weights=False)
    nodes = quantizable_nodes(graph, embeddings=uses_embeddings(config.quantize))
    with Trials(folder, config.quantize, batches) as trials:

        def judged(exclude: frozenset[str]) -> Measured:
            found = trials.measured(exclude, lambda model: quality.outputs(model, examples))
            return quality.measure(facts, reference, found, examples, config.budget)

        judge = _Judge(judged)
        before = judge(())
        gains = _gains(trials, nodes, _spread(examples, config.ranking_texts), facts, config)
        order = sorted(nodes, key=lambda node: (-gains[node], node))
        chosen = smallest_set(order, lambda names: not judge(names).shortfalls)
        rows = []
        for node in order:
            others = [name for name in chosen if name != node]
            needed = "; ".join(judge(others).shortfalls) if node in chosen else None
            rows.append(NodeRow(node, gains[node], node in chosen, needed))
        return Sensitivity(tuple(rows), before, judge(chosen), judge.trials)


def smallest_set(order: Sequence[str], passes: Callable[[Sequence[str]], bool]) -> tuple[str, ...]:
    """A set of names that passes and from which none can be taken: bisection over the prefixes of
    `order`, then removal of each name for which it still passes, until none is left."""
    if passes(()):
        return ()
    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(order[:middle]) else (middle, high)
    chosen = list(order[:high])
    removed = True
    while removed:
        removed = False
        for name in reversed(chosen):
            rest = [other for other in chosen if other != name]
            if passes(rest):
                chosen, removed = rest, True
    return tuple(chosen)


class _Judge:
    """Judges sets of excluded nodes, each set once."""

    def __init__(self, judged: Callable[[frozenset[str]], Measured]) -> None:
        self._judged = judged
        self._known: dict[frozenset[str], Measured] = {}

    def __call__(self, exclude: Sequence[str]) -> Measured:
        key = frozenset(exclude)
        if key not in self._known:
            self._known[key] = self._judged(key)
        return self._known[key]

    @property
    def trials(self) -> int:
        return len(self._known)


def _gains(
    trials: Trials, nodes: Sequence[str], examples: Examples, facts: Any, config: Config
) -> dict[str, float]:
    """By how much the divergence falls with each node alone in FP32. Negative: it rises."""

    def found(model: OrtEncoder) -> Any:
        return quality.outputs(model, examples)

    reference = trials.measured(nodes, found)

    def apart(exclude: Sequence[str]) -> float:
        other = trials.measured(exclude, found)
        figures = quality.measure(facts, reference, other, examples, config.budget).figures
        return divergence(figures)

    whole = apart(())
    gains = {}
    with progress_bar("sensitivity", unit="node", total=len(nodes)) as bar:
        for node in nodes:
            gains[node] = whole - apart([node])
            bar.update(1)
    return gains


def _spread(examples: Examples, count: int) -> Examples:
    """At most `count` of the examples, evenly spread over the file."""
    step = max(1, len(examples) // count)
    labels = examples.labels[::step][:count] if examples.labels is not None else None
    return Examples(examples.texts[::step][:count], examples.words[::step][:count], labels)
