"""Stage `onnx-encoder-quality`: an INT8 encoder against its FP32 form on texts that nothing was
chosen by."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path

from common.files import write_json
from runtimes.ort_encoder import read_facts
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.evaluate.gate import Gate
from toolchain.export.onnx import encoder_quality as quality
from toolchain.export.onnx.encoder_data import read_examples
from toolchain.export.onnx.encoder_quality import Budget, Measured
from toolchain.stage import Input, StageConfig

NAME = "onnx-encoder-quality"
VERSION = 1
TOOLS = ("numpy", "onnxruntime", "tokenizers")
FORMAT = "quality"
RESULT = "evaluation.json"
# Figure → (the gate's name, the budget's key where it has a limit, whether more is better).
_GATES = {
    "accuracy": ("accuracy", None, True),
    "macro_f1": ("macro F1", None, True),
    "f1": ("entity F1", None, True),
    "agreement": ("agreement", "min_agreement", True),
    "kld": ("mean KLD", None, False),
    "cosine_mean": ("mean cosine", "min_cosine_mean", True),
    "cosine_min": ("least cosine", None, True),
    "same_nearest": ("same nearest neighbour", None, True),
    "mean_difference": ("mean difference", "max_difference", False),
}


class Config(StageConfig):
    """`reference` is the FP32 encoder's artifact, `test` the texts (labelled where they can be)."""

    reference: Input
    test: Input
    budget: Budget = Budget()


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Measure; leaves `evaluation.json`. What is out of budget is a failed gate, not an error."""
    start = time.perf_counter()
    facts = read_facts(source.path)
    examples = read_examples(config.test.path, facts, purpose="the final test")
    reference = quality.outputs_of(config.reference.path, examples)
    found = quality.outputs_of(source.path, examples)
    measured = quality.measure(facts, reference, found, examples, config.budget)
    gates = [
        {**gate.as_json(), "passed": None if gate.limit is None else gate.passed}
        for gate in _gates(measured, config.budget)
    ]
    figures = {"figures": dict(measured.figures), "gates": gates, "texts": len(examples)}
    write_json(out_dir / RESULT, figures)
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.reference.digest, config.test.digest],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={**figures, "wall_sec": round(time.perf_counter() - start, 3)},
    )


def _gates(measured: Measured, budget: Budget) -> list[Gate]:
    """One gate a figure; where texts have labels the loss of accuracy is what counts."""
    figures, gates = measured.figures, []
    labelled = False
    for figure, before in (("accuracy", "reference_accuracy"), ("f1", "reference_f1")):
        if figure in figures:
            labelled, loss = True, figures[before] - figures[figure]
            most = budget.max_accuracy_loss
            name = f"{_GATES[figure][0]} lost"
            detail = f"FP32 {figures[before]:.4f}, INT8 {figures[figure]:.4f}"
            gates.append(Gate(name, loss, most, loss <= most + 1e-9, detail))
    for figure, (name, key, more) in _GATES.items():
        if figure not in figures:
            continue
        value = float(figures[figure])
        limit = getattr(budget, key) if key and not (labelled and key == "min_agreement") else None
        passed = limit is None or (value >= limit if more else value <= limit)
        gates.append(Gate(name, value, limit, passed, ""))
    return gates
