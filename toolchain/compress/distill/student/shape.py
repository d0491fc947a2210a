"""Which shape a student has: the sizes that were named, the others so that it stays deep.

Of its size a student is the better the more layers and heads it keeps, at the cost of its widths
(docs/distill.md has the figures; Liu et al. 2024, https://arxiv.org/abs/2402.14905).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from common.errors import UserError
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.distill.student.settings import Student
from toolchain.compress.prune.config import acceptance
from toolchain.compress.prune.layout import Layout
from toolchain.compress.prune.shape import Shape, parameter_counter, read_shape, with_sizes

# By how much missing the number of parameters weighs more than losing the proportions.
_AIM_WEIGHT = 25.0
# Layers and heads keep the share of the hidden width to this power, the FFN follows it.
_POWERS = {"layers": 0.5, "groups": 0.5, "ffn": 1.0}
_KEYS = {"layers": "layers", "width": "hidden", "ffn": "ffn", "kv_heads": "groups"}


@dataclass(frozen=True)
class Chosen:
    """The shapes of teacher and student, and their parameters."""

    teacher: Shape
    student: Shape
    teacher_parameters: int
    parameters: int

    @property
    def ratio(self) -> float:
        """The student's share of the teacher's parameters."""
        return self.parameters / self.teacher_parameters


def choose_shape(info: CheckpointInfo, layout: Layout, wanted: Student) -> Chosen:
    """The student's shape. Raises `UserError` when a named size cannot be cut out of the teacher,
    or nothing legal is as small as was asked for."""
    teacher, count = read_shape(info, layout), parameter_counter(info, layout)
    named = _named(teacher, layout, wanted)
    accepts = acceptance(info, layout, teacher)
    if wanted.ratio is None and wanted.parameters is None:
        shape = _filled(teacher, layout, named, wanted.snap)
        if not accepts(shape):
            raise UserError(
                f"transformers takes no {info.model_type} of {shape.text()}",
                "name a width that is a multiple of the number of heads",
            )
    else:
        total = count(teacher)
        most = wanted.parameters or int(total * (wanted.ratio or 1))
        shape = _nearest(teacher, layout, named, most, wanted.snap, count, accepts)
    return Chosen(teacher, shape, count(teacher), count(shape))


def _named(teacher: Shape, layout: Layout, wanted: Student) -> dict[str, int]:
    """Sizes by their names in `Shape`. Raises `UserError` for one that the teacher has not got."""
    named: dict[str, int] = {}
    for key, axis in _KEYS.items():
        size = getattr(wanted, key)
        if size is not None:
            _require_smaller(key, size, getattr(teacher, axis))
            named[axis] = size
    if wanted.heads is not None:
        _require_smaller("heads", wanted.heads, teacher.groups * teacher.heads_per_group)
        groups, rest = divmod(wanted.heads, teacher.heads_per_group)
        if rest or named.get("groups", groups) != groups:
            raise UserError(
                f"{wanted.heads} heads in {named.get('groups', groups)} groups cannot be cut out "
                f"of a teacher whose groups have {teacher.heads_per_group} heads",
                f"name heads as a multiple of {teacher.heads_per_group}, and kv_heads as heads / "
                f"{teacher.heads_per_group}",
            )
        named["groups"] = groups
    if layout.heads_fill_hidden:
        _match_heads_and_width(teacher, named)
    for axis in named:
        if axis not in _axes(layout) and named[axis] != getattr(teacher, axis):
            raise UserError(
                f"{axis} cannot be cut in this architecture",
                f"name some of: {', '.join(_axes(layout))}",
            )
    return named


def _axes(layout: Layout) -> tuple[str, ...]:
    """What can be cut; heads that fill the hidden width go with it."""
    together = ("groups",) if layout.heads_fill_hidden and "hidden" in layout.axes else ()
    return tuple(dict.fromkeys((*(a for a in layout.axes if a != "vocab"), *together)))


def _require_smaller(key: str, size: int, there: int) -> None:
    if size > there:
        raise UserError(
            f"the student cannot have {key} {size}: the teacher has {there}",
            "a student is cut out of its teacher: name at most the teacher's size, or give a "
            "checkpoint as student",
        )


def _match_heads_and_width(teacher: Shape, named: dict[str, int]) -> None:
    """Name the one by the other where heads must fill the hidden width."""
    each = teacher.heads_per_group * teacher.head_dim
    if "groups" in named:
        named.setdefault("hidden", named["groups"] * each)
    if "hidden" not in named:
        return
    groups, rest = divmod(named["hidden"], each)
    if rest or not groups or named.get("groups", groups) != groups:
        near = sorted({max(1, groups) * each, (groups + 1) * each})
        raise UserError(
            f"width {named['hidden']} is not that of whole heads of {each}, which fill it in this "
            "architecture (another head size cannot be reached by cutting)",
            f"name width {' or '.join(map(str, near))}, and no other number of heads",
        )
    named["groups"] = groups


def _filled(teacher: Shape, layout: Layout, named: dict[str, int], snap: int) -> Shape:
    """What is not named follows the width where one is, else it stays."""
    share = named.get("hidden", teacher.hidden) / teacher.hidden
    sizes = dict(named)
    for axis, step in (("ffn", snap), ("groups", 1)):
        if axis not in sizes and axis in _axes(layout):
            sizes[axis] = _snapped(getattr(teacher, axis) * share, step, getattr(teacher, axis))
    return with_sizes(teacher, **sizes)


def _snapped(size: float, step: int, most: int) -> int:
    return min(most, max(1, round(size / step)) * step)


def _nearest(
    teacher: Shape,
    layout: Layout,
    named: dict[str, int],
    most: int,
    snap: int,
    count: Callable[[Shape], int],
    accepts: Callable[[Shape], bool],
) -> Shape:
    """Of the legal shapes with at most `most` parameters the one that is nearest to it and to what
    `_POWERS` says of proportions."""

    def cost(shape: Shape) -> float:
        logs = {a: math.log(getattr(shape, a) / getattr(teacher, a)) for a in (*_POWERS, "hidden")}
        uneven = sum((logs[a] - power * logs["hidden"]) ** 2 for a, power in _POWERS.items())
        return uneven + _AIM_WEIGHT * math.log(count(shape) / most) ** 2

    shapes = list(_shapes(teacher, layout, named, most, snap, count))
    fitting = sorted((shape for shape in shapes if count(shape) <= most), key=cost)
    found = next(filter(accepts, fitting), None)
    if found is not None:
        return found
    least = min(map(count, shapes))
    raise UserError(
        f"no student of at most {most:,} parameters can be cut out of {teacher.text()} "
        f"({count(teacher):,}): the smallest legal one has {least:,}",
        "ask for more parameters, name fewer sizes, or cut the vocabulary first (prune-vocab)",
    )


def _shapes(
    teacher: Shape,
    layout: Layout,
    named: dict[str, int],
    most: int,
    snap: int,
    count: Callable[[Shape], int],
) -> Iterator[Shape]:
    """Layers and widths in all legal sizes, heads near their share, the FFN that then comes nearest
    to `most` from below."""
    for layers in _sizes("layers", teacher, layout, named, 1):
        for hidden in _sizes("hidden", teacher, layout, named, snap):
            for groups in _groups(teacher, layout, named, hidden):
                shape = with_sizes(teacher, layers=layers, hidden=hidden, groups=groups)
                if layout.heads_fill_hidden and shape.width("heads") != hidden:
                    continue
                yield with_sizes(shape, ffn=_ffn(shape, layout, named, most, snap, count))


def _sizes(
    axis: str, teacher: Shape, layout: Layout, named: dict[str, int], step: int
) -> list[int]:
    whole = getattr(teacher, axis)
    if axis in named or axis not in _axes(layout):
        return [named.get(axis, whole)]
    return [whole, *range((whole - 1) // step * step, 0, -step)]


def _groups(teacher: Shape, layout: Layout, named: dict[str, int], hidden: int) -> list[int]:
    if "groups" in named or "groups" not in _axes(layout):
        return [named.get("groups", teacher.groups)]
    if layout.heads_fill_hidden:
        return [max(1, hidden // (teacher.heads_per_group * teacher.head_dim))]
    near = teacher.groups * (hidden / teacher.hidden) ** _POWERS["groups"]
    return sorted({max(1, math.floor(near)), max(1, math.ceil(near))})


def _ffn(
    shape: Shape,
    layout: Layout,
    named: dict[str, int],
    most: int,
    snap: int,
    count: Callable[[Shape], int],
) -> int:
    if "ffn" in named or "ffn" not in _axes(layout):
        return named.get("ffn", shape.ffn)
    full = count(shape)
    each = (full - count(with_sizes(shape, ffn=shape.ffn - 1))) or 1
    exact = shape.ffn - (full - most) / each
    if exact >= shape.ffn:
        return shape.ffn
    return max(min(snap, shape.ffn), int(exact // snap * snap))
