"""Several ratios side by side: quality, size and speed of each, the cliff, and a recipe for the
best.

    found = sweep(source, config, (0.1, 0.2, 0.3), workspace, say)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.files import write_json, write_text
from common.scratch import ScratchFolder
from toolchain.compress.prune.settings import AIMS
from toolchain.report.svg import new_figure, save_svg

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.compress.prune.stage import Config
    from toolchain.pipeline import Workspace

CLIFF_FACTOR = 3.0  # loss per removed parameter against that of the steps before
_HELD_TOKENS = 8192
_NOTHING = 1e-3  # nats: a rise below it is no cliff


@dataclass(frozen=True)
class Point:
    """One ratio. `kld` is in nats on held-out text; `speed` is decode against the original's in the
    same type on this machine, None where the architecture has no GGUF."""

    wanted: float
    ratio: float
    parameters: int
    size_bytes: int | None
    kld: float
    decode_tokens_per_sec: float | None
    speed: float | None
    shape: str


@dataclass(frozen=True)
class Sweep:
    """All points, the original first. `cliff` is the first ratio beyond it, None where there is
    none; `skipped` says which ratios have no legal shape."""

    points: tuple[Point, ...]
    cliff: float | None
    recommended: float
    skipped: tuple[str, ...]
    curve: Path
    recipe: Path

    def as_json(self) -> dict[str, Any]:
        """For files and --json."""
        data = asdict(self)
        return {**data, "curve": str(self.curve), "recipe": str(self.recipe)}

    def table(self) -> str:
        """For a reader at a terminal."""
        lines = [f"{'removed':>8}  {'parameters':>11}  {'file':>9}  {'KLD':>9}  {'decode':>7}"]
        for point in self.points:
            size = f"{point.size_bytes / 1e6:.2f} MB" if point.size_bytes else "-"
            speed = f"{point.speed:.2f}x" if point.speed else "-"
            mark = "  <- recommended" if point.wanted == self.recommended else ""
            mark = "  <- beyond the cliff" if _beyond(point, self.cliff) else mark
            lines.append(
                f"{100 * point.ratio:7.1f}%  {point.parameters / 1e6:9.2f} M  {size:>9}  "
                f"{point.kld:9.4f}  {speed:>7}{mark}"
            )
        return "\n".join([*lines, *(f"left out: {one}" for one in self.skipped)])


def sweep(
    source: Artifact,
    config: Config,
    ratios: Sequence[float],
    workspace: Workspace,
    say: Callable[[str], None],
) -> Sweep:
    """Prune to each ratio and measure. Leaves `sweep.json`, `sweep.svg` and `pruned.yaml` in the
    workspace's folder. Raises `UserError` when no ratio can be met."""
    from toolchain.checkpoint.inspect import inspect
    from toolchain.compress.prune import stage
    from toolchain.pipeline import run_stage

    made: list[tuple[float, Artifact]] = []
    skipped = []
    for ratio in ratios:
        aim = dict.fromkeys(AIMS) | {"ratio": ratio}
        settings = config.settings.model_copy(update=aim)
        own = config.model_copy(update={"settings": settings, "target": None})
        try:
            made.append((ratio, run_stage(stage, source, own, workspace, say)))
        except UserError as error:
            skipped.append(f"{ratio}: {error.problem}")
    if not made:
        raise UserError("no ratio can be met", "; ".join(skipped))
    checkpoints = [source, *(artifact for _, artifact in made)]
    klds = [0.0, *_divergences(source, [artifact for _, artifact in made])]
    files, speeds = _speeds(checkpoints, config, workspace, say)
    points = [
        Point(
            wanted=wanted,
            ratio=float(artifact.measurements.get("ratio", 0.0)),
            parameters=inspect(artifact.path).parameters,
            size_bytes=file.stat().st_size if file else None,
            kld=kld,
            decode_tokens_per_sec=speed,
            speed=speed / speeds[0] if speed and speeds[0] else None,
            shape=str(artifact.measurements.get("shape", "the original")),
        )
        for wanted, artifact, kld, file, speed in zip(
            (0.0, *(ratio for ratio, _ in made)), checkpoints, klds, files, speeds, strict=True
        )
    ]
    return _conclude(points, skipped, config, workspace.root)


def find_cliff(points: Sequence[tuple[float, float]]) -> tuple[float | None, float]:
    """The first ratio at which the loss per removed parameter jumps, and the last one before it.
    `points` are (ratio, loss) in order, the original first."""
    slopes: list[float] = []
    for (ratio, loss), (next_ratio, next_loss) in itertools.pairwise(points):
        slope = max(0.0, next_loss - loss) / max(next_ratio - ratio, 1e-9)
        before = max(slopes, default=None)
        jumped = before is not None and slope > CLIFF_FACTOR * max(before, _NOTHING)
        if jumped and next_loss - loss > _NOTHING:
            return next_ratio, ratio
        slopes.append(slope)
    return None, points[-1][0]


def _beyond(point: Point, cliff: float | None) -> bool:
    return cliff is not None and point.ratio >= cliff


def _divergences(source: Artifact, made: Sequence[Artifact]) -> list[float]:
    """KLD of each from the original, on the evaluation text that nothing was fitted to."""

    from toolchain.compress.prune.calibration import read_batches
    from toolchain.compress.prune.measure import divergence, reference
    from toolchain.data.text import evaluation_text, write_text

    with ScratchFolder("sweep") as folder:
        path = Path(folder) / "evaluation.txt"
        write_text(evaluation_text(source.path), path)
        batches = read_batches(path, source.path, _HELD_TOKENS, seed=0)
    held = reference(source.path, batches)
    return [divergence(artifact.path, held) for artifact in made]


def _speeds(
    checkpoints: Sequence[Artifact],
    config: Config,
    workspace: Workspace,
    say: Callable[[str], None],
) -> tuple[Sequence[Path | None], Sequence[float | None]]:
    """Each as a GGUF in the type that was named, and its decode speed."""
    from toolchain.compress.prune.speed import decode_tokens_per_sec, quantized

    try:
        found = quantized(checkpoints, config.settings.file_type, workspace, say)
    except UserError as error:
        say(f"no speeds: {error.problem}")
        return [None] * len(checkpoints), [None] * len(checkpoints)
    return found, decode_tokens_per_sec(found)


def _conclude(
    points: Sequence[Point], skipped: Sequence[str], config: Config, folder: Path
) -> Sweep:
    cliff, last = find_cliff([(point.ratio, point.kld) for point in points])
    best = next(point for point in points if point.ratio == last)
    if best.wanted == 0.0:  # the very first step is one: the least that was asked for
        best = points[1]
    recipe, curve = folder / "pruned.yaml", folder / "sweep.svg"
    _write_recipe(recipe, config, best.wanted)
    _write_curve(curve, points, cliff)
    found = Sweep(tuple(points), cliff, best.wanted, tuple(skipped), curve, recipe)
    write_json(folder / "sweep.json", found.as_json())
    return found


def _write_recipe(path: Path, config: Config, ratio: float) -> None:
    """Recipe prune-lora with the recommended ratio and these settings."""
    import yaml

    from toolchain.recipe import shipped_text

    settings = config.settings.model_dump(mode="json", exclude_defaults=True)
    recipe = yaml.safe_load(shipped_text("prune-lora"))
    recipe["prune"] = {**{k: v for k, v in settings.items() if k not in AIMS}, "ratio": ratio}
    head = "# Written by edgeforge prune --sweep: the largest ratio before the cliff.\n"
    write_text(path, head + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))


def _write_curve(path: Path, points: Sequence[Point], cliff: float | None) -> None:
    figure = new_figure()
    axes = figure.add_subplot()
    removed = [100 * point.ratio for point in points]
    axes.plot(removed, [point.kld for point in points], "o-", label="KLD to the original, nats")
    axes.set_xlabel("parameters removed, %")
    axes.set_ylabel("KLD, nats")
    if cliff is not None:
        axes.axvline(100 * cliff, color="tab:red", linestyle="--", label="the cliff")
    if all(point.speed for point in points):
        speeds = axes.twinx()
        speeds.plot(removed, [point.speed or 0 for point in points], "s:", color="tab:green",
                    label="decode speed")  # fmt: skip
        speeds.set_ylabel("decode speed against the original")
    axes.grid(alpha=0.3)
    axes.legend()
    save_svg(figure, path)
