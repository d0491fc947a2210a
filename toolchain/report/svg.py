"""Plots as SVG files: the same file for the same figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def new_figure() -> Any:
    """An empty figure of the size that reports use; no display is needed."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def save_svg(figure: Any, path: Path) -> None:
    """Ids from a fixed salt and no date."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "edgeforge", "svg.fonttype": "path"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
