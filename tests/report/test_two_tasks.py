"""A model with a task of its own and held-out rows of the data: each figure stands by its task."""

from __future__ import annotations

from toolchain.ledger.entry import Entry, share_kept
from toolchain.report.chain import before_and_after

# In the order of a JSON file, which sorts its keys.
TASKS = {"checkpoint": {"exact_match": 0.98}, "data": {"exact_match": 1.0}}


def _entry(tasks: dict[str, dict[str, float]]) -> Entry:
    return Entry(stage="merge", result="merge-1", parameters=1, size_bytes=2, bits_per_weight=16.0,
                 tasks=tasks)  # fmt: skip


def test_the_file_is_shown_by_the_task_that_it_was_asked() -> None:
    scored = {name: {"scores": scores} for name, scores in TASKS.items()}
    manifest = {
        "quantization": "Q4_K_M",
        "gates": [{"name": "task score", "figure": 0.9931}],
        "evaluations": [{"measured": "merge", "perplexity": 1.6, "tasks": scored}],
    }
    rows = before_and_after(manifest, "en").splitlines()
    own, held = (next(row for row in rows if name in row) for name in ("own task", "held-out rows"))
    assert "0.98" in own and "0.9931" not in own
    assert "0.9931" in held


def test_the_share_kept_is_that_of_the_same_task() -> None:
    changed = {"checkpoint": {"exact_match": 0.49}, "data": {"exact_match": 1.0}}
    assert share_kept(_entry(changed), _entry(TASKS)) == 1.0
    assert share_kept(_entry({"checkpoint": {"exact_match": 0.49}}), _entry(TASKS)) == 0.5
