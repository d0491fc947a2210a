"""Texts without a label, given or made: apart from the splits, and no text of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_prepare import settings, write, written

from common.errors import UserError
from toolchain.data.prepare.prepare import prepare
from toolchain.data.prepare.variants import variants

LABELLED = [
    {"text": f"sentence {n} of a rather long report", "label": "ab"[n % 2]} for n in range(40)
]
_TEXT = "the film is moving and wise from its first minute to its last"


def prepared(tmp_path: Path, rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return prepare(settings(write(tmp_path / "rows.jsonl", rows), **changes))


def texts(tmp_path: Path, split: str) -> list[str]:
    return [row["text"] for row in written(tmp_path / "out").get(split, [])]


def test_rows_without_a_label_are_no_part_of_a_split(tmp_path: Path) -> None:
    blank: list[dict[str, Any]] = [
        {"text": "nobody judged this", "label": None},
        {"text": "nor this", "label": " ", "text_pair": "and this"},
        {"text": "nor this", "label": "", "text_pair": "and this"},  # twice
        {"text": LABELLED[3]["text"].upper(), "label": None},  # it stands below, with a label
    ]
    report = prepared(tmp_path, [*blank, *LABELLED])
    assert report["rows_unlabelled"] == 2 and report["rows_duplicate"] == 2
    assert report["rows_kept"] == len(LABELLED) and report["rows_empty"] == 0
    assert written(tmp_path / "out")["unlabelled"] == [
        {"text": "nobody judged this"},
        {"text": "nor this", "text_pair": "and this"},
    ]
    # The splits are those of the rows with labels alone.
    with_others = {s: texts(tmp_path, s) for s in ("train", "validation", "test")}
    prepared(tmp_path, LABELLED)
    assert {s: texts(tmp_path, s) for s in with_others} == with_others
    assert not (tmp_path / "out" / "unlabelled.jsonl").exists()


@pytest.mark.parametrize("first", [True, False])
def test_a_file_of_plain_texts_goes_with_one_of_labels(tmp_path: Path, first: bool) -> None:
    labelled = write(tmp_path / "labelled.csv", LABELLED)
    plain = write(tmp_path / "plain.jsonl", [{"text": "a text"}, {"text": "another"}])
    files = (plain, labelled) if first else (labelled, plain)
    report = prepare(settings(labelled, inputs=files))
    assert report["rows_unlabelled"] == 2 and report["rows_read"] == len(LABELLED) + 2
    assert texts(tmp_path, "unlabelled") == ["a text", "another"]


def test_variants_are_made_of_training_texts_alone(tmp_path: Path) -> None:
    report = prepared(tmp_path, LABELLED, variants=4)
    made = texts(tmp_path, "unlabelled")
    assert len(made) == report["rows_variants"] > 40 and report["rows_unlabelled"] == 0
    assert len(set(made)) == len(made)
    every = {text for split in ("train", "validation", "test") for text in texts(tmp_path, split)}
    assert not every & set(made)
    numbers = {text.split()[1] for text in texts(tmp_path, "train")}
    assert all(word in numbers for text in made for word in text.split() if word.isdigit())
    assert prepare(settings(tmp_path / "rows.jsonl", variants=4), dry_run=True)["rows_variants"]
    before = (tmp_path / "out" / "unlabelled.jsonl").read_bytes()
    prepared(tmp_path, LABELLED, variants=4)
    assert (tmp_path / "out" / "unlabelled.jsonl").read_bytes() == before


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no row has a label") as caught:
        prepared(tmp_path, [{"text": f"text {n}", "label": None} for n in range(3)])
    assert "--format text" in caught.value.mend
    with pytest.raises(UserError, match="the rows have no labels"):
        prepared(tmp_path, [{"text": "a"}, {"text": "b"}], variants=2)
    with pytest.raises(UserError, match="101 variants") as caught:
        prepared(tmp_path, LABELLED, variants=101)
    assert "from 0 to 100" in caught.value.mend
    assert not (tmp_path / "out").exists()


def test_variants_are_pieces_of_a_text_or_the_text_with_words_left_out() -> None:
    made = list(variants(_TEXT, 20, seed=0))
    assert made == list(variants(_TEXT, 20, seed=0)) != list(variants(_TEXT, 20, seed=1))
    words = _TEXT.split()
    for text in made:
        rest = iter(words)
        assert text != _TEXT and all(word in rest for word in text.split())  # in their order
    assert {len(text.split()) == len(words) for text in made} == {False}
    signs = list(variants("这部电影很感人", 20, seed=0))
    assert len(signs) > 10 and all(set(text) <= set("这部电影很感人") for text in signs)
    assert list(variants("one", 5, seed=0)) == list(variants("", 5, seed=0)) == []
