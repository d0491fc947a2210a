"""Which smaller shapes remove as much as was asked for, with widths that the format can hold."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import UserError
from targets.quantization import block_values
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.config import acceptance
from toolchain.compress.prune.layout import Layout
from toolchain.compress.prune.settings import MOST, Prune
from toolchain.compress.prune.shape import Shape, parameter_counter, read_shape, with_sizes

if TYPE_CHECKING:
    from targets.schema import Target

TOLERANCE = 0.01  # of all parameters
SMALLEST_BLOCK = 32  # of every format here
WORTH_FALLING_BACK = 0.5  # of the loss: the file has more bits per weight then


class Unreachable(UserError):
    """No legal shape is what was asked for."""


@dataclass(frozen=True)
class Candidate:
    """A shape that could be made; `ratio` is the share of all parameters that it removes. With
    `spread` its heads and channels go to the layers where the scores say they matter."""

    shape: Shape
    parameters: int
    ratio: float
    step: int
    spread: bool = False


@dataclass(frozen=True)
class Aim:
    """What a shape should cost by `measure`, from `least` to `most`. `text` names it."""

    measure: Callable[[Shape], float]
    wanted: float
    least: float
    most: float
    text: str

    def met_by(self, shape: Shape) -> bool:
        """Whether the shape costs what was asked for."""
        return self.least <= self.measure(shape) <= self.most

    def distance(self, shape: Shape) -> float:
        """How far from what was asked for the shape is, in what `measure` counts."""
        return abs(self.measure(shape) - self.wanted)


@dataclass(frozen=True)
class Choices:
    """Candidates for one aim. `notes` say what snapping to the format's blocks costs; `sec` are the
    seconds a token that are expected of a shape on the target, where those were asked for."""

    original: Shape
    parameters: int
    aim: Aim
    found: tuple[Candidate, ...]
    notes: tuple[str, ...]
    sec: Callable[[Shape], float] | None = None


def find_candidates(
    info: CheckpointInfo, layout: Layout, settings: Prune, target: Target | None = None
) -> Choices:
    """Every legal shape within `TOLERANCE` of the aim; `target` is the device whose decode speed
    counts, where that is the aim.

    Raises `Unreachable` when there is none (it names the nearest), `UserError` when no axis can be
    cut here.
    """
    settings, left_out = _possible_axes(layout, settings)
    original = read_shape(info, layout)
    count = parameter_counter(info, layout)
    total = count(original)
    sec = _seconds(info, layout, settings, target)
    aim = _speed_aim(settings, original, sec, target) if sec and target else _size_aim(
        info, settings, count, total
    )  # fmt: skip
    block = block_values(settings.file_type)
    steps = _steps(settings, block, original)
    accepts = acceptance(info, layout, original)
    tried: list[Candidate] = []
    found: dict[Shape, Candidate] = {}
    notes = left_out
    for step in steps:
        shapes = filter(accepts, _legal(original, layout, settings, aim, step))
        made = [_candidate(shape, count(shape), total, step) for shape in shapes]
        met = {one.shape: one for one in made if aim.met_by(one.shape) and one.ratio <= MOST}
        if met and not found:
            notes += _notes(settings, block, step, len(met))
        found = {**met, **found}
        # A size in bytes is an aim that larger types would miss.
        if found and (settings.size_bytes or not _is_few(settings, block, step, len(found))):
            break
        tried += made
    if found:
        return Choices(original, total, aim, tuple(found.values()), notes, sec)
    if settings.nearest and (only := _nearest(aim, tried)):
        note = f"{aim.text} cannot be met with legal shapes: the nearest is {only.ratio:.4f}"
        return Choices(original, total, aim, (only,), (*left_out, note), sec)
    raise _too_fast(aim, tried) if sec else _unreachable(settings, aim, tried)


def _seconds(
    info: CheckpointInfo, layout: Layout, settings: Prune, target: Target | None
) -> Callable[[Shape], float] | None:
    """Seconds a token on the target, where its speed is the aim."""
    from toolchain.compress.prune.decode import decode_sec

    if not settings.aims_at_speed:
        return None
    if target is None:
        raise UserError(
            "a decode speed is that of a device, and none is named",
            "name it with --target (edgeforge targets list)",
        )
    return decode_sec(info, layout, settings.file_type, target)


def _speed_aim(
    settings: Prune, original: Shape, sec: Callable[[Shape], float], target: Target
) -> Aim:
    """At least as fast as asked, by no more than twice `TOLERANCE` of the original's time."""
    before = sec(original)
    if settings.decode_speedup is not None:
        wanted = before / settings.decode_speedup
        text = f"decode {settings.decode_speedup:.2f}x as fast on {target.name}"
    else:
        assert settings.decode_tokens_per_sec is not None
        wanted = 1 / settings.decode_tokens_per_sec
        text = f"decode {settings.decode_tokens_per_sec:g} tokens/s on {target.name}"
        if wanted >= before:
            raise UserError(
                f"the model is expected to {text} as it is ({1 / before:.1f})",
                "build it without a cut, or ask for more",
            )
    return Aim(sec, wanted, wanted - 2 * TOLERANCE * before, wanted, text)


def _size_aim(
    info: CheckpointInfo, settings: Prune, count: Callable[[Shape], int], total: int
) -> Aim:
    ratio = _wanted(info, settings, total)
    wanted, room = total * (1 - ratio), total * TOLERANCE
    return Aim(count, wanted, wanted - room, wanted + room, f"ratio {ratio:.4f}")


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


def _steps(settings: Prune, block: int, original: Shape) -> list[int]:
    """What widths are multiples of, the first that serves: whole blocks of the type, the smallest
    blocks, and where the original's FFN fills no whole blocks either, what its width has."""
    if settings.snap != "auto":
        return [settings.snap if isinstance(settings.snap, int) else 1]
    own = math.gcd(original.ffn, SMALLEST_BLOCK)
    return list(dict.fromkeys((block, SMALLEST_BLOCK, own)))


def _legal(
    original: Shape, layout: Layout, settings: Prune, aim: Aim, step: int
) -> Iterator[Shape]:
    """Shapes whose FFN width comes nearest to the aim, for every legal choice of the rest."""
    heads = "groups" in settings.axes or (layout.heads_fill_hidden and "hidden" in settings.axes)
    for layers in _sizes(original.layers, 1, "layers" in settings.axes):
        for groups in _groups(original, step, heads):
            for hidden in _sizes(original.hidden, step, "hidden" in settings.axes):
                shape = with_sizes(original, layers=layers, groups=groups, hidden=hidden)
                if layout.heads_fill_hidden and shape.width("heads") != hidden:
                    continue
                yield from _nearest_ffn(shape, aim, step, "ffn" in settings.axes)


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


def _nearest_ffn(shape: Shape, aim: Aim, step: int, cut: bool) -> Iterator[Shape]:
    """The shape with the FFN widths on either side of the one that meets the aim. Beyond either end
    it is the end: an aim out of reach still has a nearest shape."""
    shapes = [with_sizes(shape, ffn=width) for width in reversed(_sizes(shape.ffn, step, cut))]
    place = bisect.bisect_left(shapes, aim.wanted, key=aim.measure)
    yield from shapes[max(0, place - 1) : place + 1]


def _candidate(shape: Shape, parameters: int, total: int, step: int) -> Candidate:
    return Candidate(shape, parameters, 1 - parameters / total, step)


def _is_few(settings: Prune, block: int, step: int, count: int) -> bool:
    """Whether whole blocks of the type leave few shapes, where its smallest would leave more."""
    return (
        settings.snap == "auto" and step == block > SMALLEST_BLOCK and count < settings.candidates
    )


def _notes(settings: Prune, block: int, step: int, count: int) -> tuple[str, ...]:
    fall_back = f"tensors whose rows are no multiple of {block} fall back to a larger type"
    if settings.snap == "auto" and step != block:
        return (
            f"no shape with widths of whole {block}-value blocks ({settings.file_type}) removes so "
            f"much within {100 * TOLERANCE:.0f} %: widths are multiples of {step}, and {fall_back}",
        )
    if not _is_few(settings, block, step, count):
        return ()
    finer = (
        f"one in multiples of {SMALLEST_BLOCK} is taken where it loses less than "
        f"{WORTH_FALLING_BACK:g} of that"
        if settings.size_bytes is None
        else f"snap {SMALLEST_BLOCK} may have one that loses less"
    )
    return (
        f"widths of whole {block}-value blocks ({settings.file_type}) leave {count} "
        f"shape{'' if count == 1 else 's'} to choose from: {finer}, and {fall_back} then",
    )


def _nearest(aim: Aim, made: list[Candidate]) -> Candidate | None:
    smaller = [one for one in made if 0 < one.ratio <= MOST]
    return min(smaller, key=lambda one: aim.distance(one.shape), default=None)


def _unreachable(settings: Prune, aim: Aim, made: list[Candidate]) -> Unreachable:
    if not made:
        return Unreachable("no smaller shape is legal", "name more axes, or a smaller snap")
    by_distance = sorted(made, key=lambda one: aim.distance(one.shape))
    near = list(dict.fromkeys(f"{one.ratio:.4f}" for one in by_distance))[:3]
    takes = ", which nearest takes" if settings.wanted_ratio is not None else ""
    return Unreachable(
        f"{aim.text} cannot be met within {TOLERANCE} with legal shapes",
        f"the nearest that can: {', '.join(near)} ({by_distance[0].shape.text()}){takes}; or name "
        "more axes",
    )


def _too_fast(aim: Aim, made: list[Candidate]) -> Unreachable:
    legal = [one for one in made if one.ratio <= MOST]
    if not legal:
        return Unreachable("no smaller shape is legal", "name more axes, or a smaller snap")
    near = min(legal, key=lambda one: aim.distance(one.shape))
    return Unreachable(
        f"no legal shape is expected to {aim.text}",
        f"the nearest: {1 / aim.measure(near.shape):.1f} tokens/s ({near.shape.text()}); or name "
        "more axes, or a smaller type",
    )
