"""What was counted while data were prepared, and how it is reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolchain.data.prepare.split import SPLITS
from toolchain.report.markdown import figure, size, table

_SAMPLED_PROMPTS = 1000
_SAMPLED_OF_LABEL = 4


@dataclass
class SplitTally:
    """One split. `tokens`: length in tokens → rows; `prompts`: the first few, as digests; `labels`:
    label → rows, `label_prompts`: the first few prompts of each."""

    rows: int = 0
    truncated: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    prompts: list[bytes] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    label_prompts: dict[str, list[bytes]] = field(default_factory=dict)

    def add(self, prompt: bytes, language: str, label: str | None = None) -> None:
        """Count one row."""
        self.rows += 1
        self.languages[language] += 1
        if len(self.prompts) < _SAMPLED_PROMPTS:
            self.prompts.append(prompt)
        if label is not None:
            self.labels[label] += 1
            kept = self.label_prompts.setdefault(label, [])
            if len(kept) < _SAMPLED_OF_LABEL and prompt not in kept:
                kept.append(prompt)


@dataclass
class Tally:
    """One pass over all files. `files`: name, format and rows of each; `conflicts`: the first few
    rows whose text came before with another label. `unlabelled` texts have no label, `variants`
    were made of training texts; neither is of a split."""

    files: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0
    empty: int = 0
    duplicates: int = 0
    conflicting: int = 0
    conflicts: list[str] = field(default_factory=list)
    dropped_long: int = 0
    unlabelled: int = 0
    variants: int = 0
    splits: dict[str, SplitTally] = field(
        default_factory=lambda: {name: SplitTally() for name in SPLITS}
    )

    @property
    def kept(self) -> int:
        """Rows of all splits."""
        return sum(split.rows for split in self.splits.values())

    def labels(self, ratios: Sequence[float]) -> dict[str, dict[str, int]]:
        """Label → wanted split → rows; empty where rows have no labels."""
        wanted = [name for name, ratio in zip(SPLITS, ratios, strict=True) if ratio > 0]
        names = sorted({label for split in self.splits.values() for label in split.labels})
        return {label: {s: self.splits[s].labels[label] for s in wanted} for label in names}

    def report(self, ratios: Sequence[float]) -> dict[str, Any]:
        """The counts as JSON values; splits without a share are left out."""
        wanted = zip(SPLITS, ratios, strict=True)
        return {
            "inputs": self.files,
            "rows_read": self.rows,
            "rows_kept": self.kept,
            "rows_empty": self.empty,
            "rows_duplicate": self.duplicates,
            "rows_conflicting": self.conflicting,
            "rows_dropped_long": self.dropped_long,
            "rows_unlabelled": self.unlabelled,
            "rows_variants": self.variants,
            "conflicts": self.conflicts,
            "labels": self.labels(ratios) or None,
            "splits": {
                name: _split_report(self.splits[name], ratio, self.kept)
                for name, ratio in wanted
                if ratio > 0
            },
        }


def length_figures(lengths: Mapping[int, int]) -> dict[str, int] | None:
    """Least, median, 95th percentile (both by nearest rank), greatest and sum; `None` without
    rows. `lengths`: tokens → rows."""
    rows = sum(lengths.values())
    if not rows:
        return None
    return {
        "min": min(lengths),
        "median": _rank(lengths, (rows + 1) // 2),
        "p95": _rank(lengths, -(-rows * 95 // 100)),
        "max": max(lengths),
        "total": sum(length * count for length, count in lengths.items()),
    }


def markdown(report: Mapping[str, Any]) -> str:
    """The report for readers."""
    sources = [
        (f["name"], f["format"], f["rows"], size(f["size_bytes"]), f["sha256"][:12])
        for f in report["inputs"]
    ]
    counts = [(name.removeprefix("rows_").replace("_", " "), report[name]) for name in COUNTS]
    parts = [
        "# Training data",
        table("file | format | rows | size | sha256", sources),
        table("rows | count", counts),
        "## Splits",
        f"Seed {report['seed']}. A prompt is in one split only.",
        table(
            "split | rows | share | wanted | en | zh | other", map(_row, report["splits"].items())
        ),
    ]
    if report["labels"]:
        rows = [
            (_cell(label), *(counts[name] for name in report["splits"]))
            for label, counts in report["labels"].items()
        ]
        parts += ["## Labels", table(" | ".join(["label", *report["splits"]]), rows)]
    if report["conflicts"]:
        listed = "\n".join(f"- {conflict}" for conflict in report["conflicts"])
        parts += ["## Rows whose text came before with another label (left out)", listed]
    if report["tokens"]:
        model, context = report["tokens"]["model"], report["tokens"]["max_tokens"]
        parts += [
            "## Lengths in tokens",
            f"Tokenizer of {model}; context {context}; longer rows are cut in training.",
            table(
                "split | min | median | p95 | max | total | truncated",
                [_lengths(name, split) for name, split in report["splits"].items()],
            ),
        ]
    return "\n\n".join(parts) + "\n"


COUNTS = (
    "rows_read",
    "rows_kept",
    "rows_empty",
    "rows_duplicate",
    "rows_conflicting",
    "rows_dropped_long",
    "rows_unlabelled",
    "rows_variants",
)


def _split_report(split: SplitTally, ratio: float, kept: int) -> dict[str, Any]:
    return {
        "rows": split.rows,
        "share": round(split.rows / kept, 4) if kept else 0.0,
        "share_wanted": ratio,
        "languages": {name: split.languages[name] for name in ("en", "zh", "other")},
        "tokens": length_figures(split.tokens),
        "truncated": split.truncated,
    }


def _row(item: tuple[str, Mapping[str, Any]]) -> tuple[object, ...]:
    name, split = item
    shares = (figure(split["share"]), figure(split["share_wanted"]))
    return name, split["rows"], *shares, *split["languages"].values()


def _lengths(name: str, split: Mapping[str, Any]) -> tuple[object, ...]:
    tokens = split["tokens"] or dict.fromkeys(("min", "median", "p95", "max", "total"))
    return name, *(figure(value) for value in tokens.values()), split["truncated"]


def _cell(text: str) -> str:
    """A text inside a table."""
    return " ".join(text.replace("|", "\\|").split())


def _rank(lengths: Mapping[int, int], rank: int) -> int:
    """The `rank`-th smallest length, from 1."""
    below = 0
    for length in sorted(lengths):
        below += lengths[length]
        if below >= rank:
            return length
    raise ValueError(f"rank {rank} of {below} rows")
