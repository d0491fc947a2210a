"""Metrics against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from common.errors import UserError
from toolchain.evaluate.metrics import METRICS, metric_names, score_answers


def scores(metric: str, answers: list[str], references: list[str]) -> dict[str, float]:
    return score_answers(answers, references, [metric])


def test_exact_match_is_to_the_letter_but_for_white_space_at_the_ends() -> None:
    answers = [" yes\n", "Yes", "yes.", "yes"]
    assert scores("exact_match", answers, ["yes"] * 4) == {"exact_match": 0.5}


def test_accuracy_compares_labels() -> None:
    answers = ["Positive.", "ＰＯＳＩＴＩＶＥ", "not  positive", "正面。"]
    references = ["positive", "positive", "positive", "正面"]
    assert scores("accuracy", answers, references) == {"accuracy": 0.75}


def test_f1_counts_shared_words() -> None:
    # shared: cat, sat; answer has 2 words without the article, reference 4: 2*2/(2+4)
    assert scores("f1", ["The cat sat"], ["a cat sat on mats"])["f1"] == pytest.approx(2 / 3)
    # one of two right, the second shares nothing
    assert scores("f1", ["lamp", "x"], ["lamp", "y"])["f1"] == 0.5
    # a word twice in the answer and once in the reference counts once: 2*1/(2+1)
    assert scores("f1", ["on on"], ["on"])["f1"] == pytest.approx(2 / 3)


def test_f1_takes_chinese_by_characters() -> None:
    # 打开灯 and 关掉灯 share 灯: 2*1/(3+3)
    assert scores("f1", ["打开灯"], ["关掉灯"])["f1"] == pytest.approx(1 / 3)


def test_f1_of_empty_texts() -> None:
    assert scores("f1", ["", "", "x"], ["", "x", ""])["f1"] == pytest.approx(1 / 3)


def test_bleu_by_hand() -> None:
    # precisions 5/6, 4/5, 3/4, 2/3; both have 6 words, so no brevity penalty
    value = scores("bleu", ["the cat sat on the rug"], ["the cat sat on the mat"])["bleu"]
    expected = 100 * math.exp(sum(map(math.log, (5 / 6, 4 / 5, 3 / 4, 2 / 3))) / 4)
    assert value == pytest.approx(expected)


def test_bleu_brevity_penalty_by_hand() -> None:
    value = scores("bleu", ["the cat sat on"], ["the cat sat on the mat"])["bleu"]
    assert value == pytest.approx(100 * math.exp(1 - 6 / 4))


def test_bleu_takes_chinese_by_characters() -> None:
    # 6 characters, the last differs: the same precisions as above. As one word it would be 0.
    value = scores("bleu", ["打开客厅的灯"], ["打开客厅的门"])["bleu"]
    expected = 100 * math.exp(sum(map(math.log, (5 / 6, 4 / 5, 3 / 4, 2 / 3))) / 4)
    assert value == pytest.approx(expected)


def test_rouge_by_hand() -> None:
    found = scores("rouge", ["the cat sat"], ["the cat on mats sat"])
    assert found["rouge1"] == pytest.approx(2 * 3 / (3 + 5))
    assert found["rouge2"] == pytest.approx(2 * 1 / (2 + 4))  # "the cat" of 2 and 4 pairs
    assert found["rougeL"] == pytest.approx(2 * 3 / (3 + 5))
    swapped = scores("rouge", ["sat the cat"], ["the cat sat"])
    assert swapped["rouge1"] == 1
    assert swapped["rougeL"] == pytest.approx(2 / 3)  # the longest common part is "the cat"


def test_rouge_takes_chinese_by_characters() -> None:
    assert scores("rouge", ["打开灯"], ["关掉灯"])["rouge1"] == pytest.approx(1 / 3)


def test_chrf_by_hand() -> None:
    # orders 1 to 3 exist: 3/4, 2/3 and 1/2 of the n-grams agree on both sides; order 4: none of 1
    value = scores("chrf", ["abcd"], ["abce"])["chrf"]
    assert value == pytest.approx(100 * (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4)
    assert scores("chrf", ["打开灯"], ["打开灯"])["chrf"] == pytest.approx(100)


@pytest.mark.parametrize("metric", METRICS)
def test_a_perfect_answer_is_best_and_a_foreign_one_worst(metric: str) -> None:
    references = ["set the kitchen lamp to forty percent", "把客厅的灯打开，然后关掉空调"]
    best = scores(metric, references, references)
    assert all(
        value == pytest.approx(100 if metric in ("bleu", "chrf") else 1) for value in best.values()
    )
    worst = scores(metric, ["zzz", "qqq"], references)
    assert all(value < 0.01 for value in worst.values())


def test_metric_names() -> None:
    assert metric_names(" bleu, f1,bleu") == ("bleu", "f1")
    with pytest.raises(UserError, match=r"unknown metric 'blue'.*\n.*did you mean 'bleu'"):
        metric_names("f1,blue")
    with pytest.raises(UserError, match="empty"):
        metric_names(" , ")
