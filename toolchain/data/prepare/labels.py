"""Labels of a classification data set: read, checked, and spread over the splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.errors import UserError
from toolchain.data.prepare.split import SPLITS, Assigner
from toolchain.data.prepare.text_identity import normalise

_SHOWN = 5
_FEW_ROWS = 10


def label_text(value: Any) -> str | None:
    """A label as text: 1 and 1.0 are '1', true is 'true'; `None` for no label.

    Raises `ValueError` with the reason for what is no label.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError(f"{value} is no label: labels are texts or whole numbers")
        value = int(value)
    if not isinstance(value, str | int):
        raise ValueError(f"{type(value).__name__} is no label: {value!r:.60}")
    return str(value).strip() or None


def require_labels(counts: Mapping[str, Mapping[str, int]], rows: int) -> None:
    """Raise `UserError` when there is one label only, a label on every row, or two that differ in
    case, width or white space alone. `counts`: label → split → rows."""
    labels = sorted(counts)
    if len(labels) < 2:
        raise UserError(
            f"every row has the same label: '{labels[0]}'", "give rows of two labels or more"
        )
    if len(labels) == rows > _FEW_ROWS:
        raise UserError(
            f"every one of {rows} rows has a label of its own ('{labels[0]}', '{labels[1]}', …)",
            "name the column of the labels: --map label=COLUMN",
        )
    same: dict[str, str] = {}
    for label in labels:
        other = same.setdefault(normalise(label), label)
        if other != label:
            raise UserError(
                f"the labels '{other}' and '{label}' differ in case, width or white space alone",
                "write them the same way",
            )


def spread(
    assigner: Assigner, found: Mapping[str, Mapping[str, Sequence[bytes]]]
) -> Assigner | None:
    """An assigner that gives train every label, and the other splits each label that has texts
    enough; `None` when nothing is to be moved. `found`: label → split → (some) prompt digests.

    Only the first call also fills the other splits, so that calls end: later ones mend what a move
    of a prompt with several labels took from train.
    """
    wanted = [name for name, share in zip(SPLITS, assigner.ratios, strict=True) if share > 0]
    moved = dict(assigner.moved)
    first_call = not moved
    for label in sorted(found):
        mine = {name: sorted(set(found[label].get(name, ()))) for name in wanted}
        for name in wanted if first_call else wanted[:1]:
            donor = max(wanted, key=lambda other: len(mine[other]))
            least = 1 if name == wanted[0] else 2
            spare = [prompt for prompt in mine[donor] if prompt not in moved or not first_call]
            if mine[name] or len(mine[donor]) < least or not spare:
                continue
            mine[donor].remove(spare[0])
            mine[name].append(spare[0])
            moved[spare[0]] = name
    return None if moved == assigner.moved else Assigner(assigner.ratios, assigner.seed, moved)


def require_every_split(splits: Mapping[str, int]) -> None:
    """Raise `UserError` when a wanted split stayed empty. `splits`: name → rows."""
    empty = [name for name, rows in splits.items() if not rows]
    if empty:
        raise UserError(
            f"{sum(splits.values())} rows are too few for every label in train and "
            f"{len(splits)} splits: {empty[0]} is empty",
            "give more rows, or fewer splits: --split 1,0,0",
        )


def label_lines(labels: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The most frequent labels with their rows in each split, one line each."""
    order = sorted(labels, key=lambda label: (-sum(labels[label].values()), label))
    lines = [
        f"label {label}: " + ", ".join(f"{rows} {split}" for split, rows in labels[label].items())
        for label in order[:_SHOWN]
    ]
    more = len(order) - _SHOWN
    return [*lines, f"and {more} more labels"] if more > 0 else lines
