"""The loss curve as an SVG that is the same for the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CURVE = "loss_curve.svg"


def write_curve(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw training and validation loss over steps; `history` as the Trainer logs it."""
    import matplotlib

    settings: Any = {"svg.hashsalt": "edgeforge", "svg.fonttype": "none", "font.size": 10}
    with matplotlib.rc_context(settings):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for name, label, style in (("loss", "train", "-"), ("eval_loss", "validation", "o--")):
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
        axes.set(xlabel="step", ylabel="loss")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
