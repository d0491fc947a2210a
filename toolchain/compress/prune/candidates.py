"""Which smaller shapes remove as much as was asked for, with widths that the format can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from common.errors import UserError
from targets.quantization import block_values
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.config import acceptance
from toolchain.compress.prune.layout import Layout
from toolchain.compress.prune.settings import MOST, Prune
from toolchain.compress.prune.shape import Shape, parameter_counter, read_shape, with_sizes

TOLERANCE = 0.01  # of all parameters
SMALLEST_BLOCK = 32  # of every format here


@dataclass(frozen=True)
class Candidate:
    """A shape that could be made; `ratio` is the share of all parameters that it removes."""

    shape: Shape
    parameters: int
    ratio: float
    step: int


@dataclass(frozen=True)
class Choices:
    """Candidates for one aim. `notes` say what snapping to the format's blocks costs."""

    original: Shape
    parameters: int
    ratio: float
    found: tuple[Candidate, ...]
    notes: tuple[str, ...]


def find_candidates(info: CheckpointInfo, layout: Layout, settings: Prune) -> Choices:
    """Every legal shape within `TOLERANCE` of the aim.

    Raises `UserError` when there is none (it names the nearest), or no axis can be cut here.
    """
    settings, left_out = _possible_axes(layout, settings)
    original = read_shape(info, layout)
    count = parameter_counter(info, layout)
    total = count(original)
    ratio = _wanted(info, settings, total)
    block = block_values(settings.file_type)
    steps = [block, SMALLEST_BLOCK] if settings.snap == "auto" else [_step(settings.snap)]
    accepts = acceptance(info, layout, original)
    nearest: list[Candidate] = []
    for step in dict.fromkeys(steps):
        shapes = filter(accepts, _legal(original, layout, settings, ratio, step, count))
        made = [_candidate(shape, count(shape), total, step) for shape in shapes]
        found = [one for one in made if abs(one.ratio - ratio) <= TOLERANCE]
        if found:
            return Choices(
                original, total, ratio, tuple(found), (*left_out, *_notes(settings, block, step))
            )
        nearest += made
    raise _unreachable(ratio, nearest)


def _possible_axes(layout: Layout, settings: Prune) -> tuple[Prune, tuple[str, ...]]:
    """The settings with the axes that this architecture has, and a note about the others: the
    default and ready recipes are for decoders and encoders alike."""
    there = tuple(axis for axis in settings.axes if axis in layout.axes)
    missing = " and ".join(axis for axis in settings.axes if axis not in layout.axes)
    if not there:
        raise UserError(
            f"{missing} cannot be cut in this architecture",
            f"set axes to some of: {', '.join(a for a in layout.axes if a != 'vocab')}",
        )
    notes = (f"{missing} cannot be cut in this architecture and stay",) if missing else ()
    return settings.model_copy(update={"axes": there}), notes


def _wanted(info: CheckpointInfo, settings: Prune, total: int) -> float:
    if settings.wanted_ratio is not None:
        return settings.wanted_ratio
    if settings.parameters is not None:
        kept = float(settings.parameters)
    else:
        from toolchain.plan import type_sizes

        assert settings.size_bytes is not None
        whole = type_sizes(info, [settings.file_type])[0]
        kept = settings.size_bytes * 8 / whole.bits_per_weight
    ratio = 1 - kept / total
    if not 0 <= ratio <= MOST:
        raise UserError(
            f"the aim leaves {kept / 1e6:.2f} M of {total / 1e6:.2f} M parameters",
            f"between {100 * (1 - MOST):.0f} % and all of them can be kept",
        )
    return ratio


def _step(snap: int | str) -> int:
    return snap if isinstance(snap, int) else 1


def _legal(
    original: Shape,
    layout: Layout,
    settings: Prune,
    ratio: float,
    step: int,
    count: Callable[[Shape], int],
) -> Iterator[Shape]:
    """Shapes whose FFN width comes nearest to the aim, for every legal choice of the rest."""
    total = count(original)
    heads = "groups" in settings.axes or (layout.heads_fill_hidden and "hidden" in settings.axes)
    for layers in _sizes(original.layers, 1, "layers" in settings.axes):
        for groups in _groups(original, step, heads):
            for hidden in _sizes(original.hidden, step, "hidden" in settings.axes):
                shape = with_sizes(original, layers=layers, groups=groups, hidden=hidden)
                if layout.heads_fill_hidden and shape.width("heads") != hidden:
                    continue
                for ffn in _nearest_ffn(shape, total * (1 - ratio), step, count, settings):
                    yield with_sizes(shape, ffn=ffn)


def _sizes(original: int, step: int, cut: bool) -> list[int]:
    """The size itself and, where it may be cut, every smaller multiple of `step`."""
    smaller = range((original - 1) // step * step, 0, -step) if cut else ()
    return [original, *smaller]


def _groups(original: Shape, step: int, cut: bool) -> list[int]:
    """Numbers of groups whose heads fill whole blocks, as far as the original's do."""
    per_group = original.width("heads") // original.groups
    sizes = _sizes(original.groups, 1, cut)
    if original.width("heads") % step:
        return sizes
    return [groups for groups in sizes if groups * per_group % step == 0]


def _nearest_ffn(
    shape: Shape, kept: float, step: int, count: Callable[[Shape], int], settings: Prune
) -> Iterable[int]:
    """The FFN widths on either side of the one that meets the aim."""
    if "ffn" not in settings.axes:
        return [shape.ffn]
    full = count(shape)
    per_channel = (full - count(with_sizes(shape, ffn=shape.ffn - 1))) or 1
    exact = shape.ffn - (full - kept) / per_channel
    below = int(exact // step * step)
    found = {shape.ffn if width > shape.ffn - step < below + step else width
             for width in (below, below + step)}  # fmt: skip
    # Beyond either end the nearest is the end: an aim out of reach still has a nearest shape.
    return sorted({min(max(width, min(step, shape.ffn)), shape.ffn) for width in found})


def _candidate(shape: Shape, parameters: int, total: int, step: int) -> Candidate:
    return Candidate(shape, parameters, 1 - parameters / total, step)


def _notes(settings: Prune, block: int, step: int) -> tuple[str, ...]:
    if settings.snap != "auto" or step == block:
        return ()
    return (
        f"no shape with widths of whole {block}-value blocks ({settings.file_type}) removes so "
        f"much within {100 * TOLERANCE:.0f} %: widths are multiples of {step}, and tensors whose "
        f"rows are no multiple of {block} fall back to a larger type",
    )


def _unreachable(ratio: float, made: list[Candidate]) -> UserError:
    if not made:
        return UserError("no smaller shape is legal", "name more axes, or a smaller snap")
    near = sorted({round(one.ratio, 4) for one in made}, key=lambda found: abs(found - ratio))[:3]
    best = min(made, key=lambda one: abs(one.ratio - ratio))
    listed = ", ".join(f"{value:.4f}" for value in near)
    return UserError(
        f"ratio {ratio:.4f} cannot be met within {TOLERANCE} with legal shapes",
        f"the nearest that can: {listed} ({best.shape.text()}); or name more axes",
    )
