"""Scores of answers against references: exact match, accuracy, token F1, BLEU, ROUGE, chrF.

    score_answers(["the cat"], ["the cat sat"], ["f1", "bleu"])  # {"f1": 0.8, "bleu": ...}

exact_match, accuracy, f1 and rouge are shares of 1; bleu and chrf are 0 to 100, as sacrebleu gives
them. Sources: SQuAD (F1), Papineni et al. 2002 and Post 2018 (BLEU, sacrebleu), Lin 2004 (ROUGE),
Popović 2015 (chrF). Chinese has no spaces between words: its characters count as words (sacrebleu's
`zh` tokenizer for BLEU).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from common.errors import UserError, near_names

_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HAN_CHARACTER = re.compile(f"[{_HAN}]")
_WORD = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+")
_ARTICLES = {"a", "an", "the"}
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; each Chinese character is a word."""
    return _WORD.findall(text.lower())


def exact_match(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Share of answers equal to their reference, white space at the ends aside."""
    pairs = zip(answers, references, strict=True)
    return {"exact_match": _mean([is_exact(a, r) for a, r in pairs])}


def is_exact(answer: str, reference: str) -> bool:
    """Whether an answer is right to the letter, white space at the ends aside."""
    return answer.strip() == reference.strip()


def accuracy(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Share of answers that are the reference's label: case, width of characters, inner white space
    and punctuation at the ends aside. For classification."""
    pairs = zip(answers, references, strict=True)
    return {"accuracy": _mean([_label(a) == _label(r) for a, r in pairs])}


def token_f1(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean F1 of the words that answer and reference share, articles left out (SQuAD)."""
    return {"f1": _mean([_f1(a, r) for a, r in zip(answers, references, strict=True)])}


def bleu(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU; sacrebleu's `zh` tokenizer where references hold Chinese, else `13a`."""
    from sacrebleu.metrics.bleu import BLEU

    tokenizer = "zh" if any(map(_HAN_CHARACTER.search, references)) else "13a"
    scorer = BLEU(tokenize=tokenizer)
    return {"bleu": float(scorer.corpus_score(list(answers), [list(references)]).score)}


def chrf(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Corpus chrF2 over characters, the usual choice for Chinese."""
    from sacrebleu.metrics.chrf import CHRF

    return {"chrf": float(CHRF().corpus_score(list(answers), [list(references)]).score)}


def rouge(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean F-measures of ROUGE-1, -2 and -L, without stemming."""
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped, unused-ignore]

    scorer = RougeScorer(list(ROUGE_TYPES), tokenizer=_Words())
    rows = [scorer.score(r, a) for a, r in zip(answers, references, strict=True)]
    return {kind: _mean([row[kind].fmeasure for row in rows]) for kind in ROUGE_TYPES}


Metric = Callable[[Sequence[str], Sequence[str]], dict[str, float]]
METRICS: dict[str, Metric] = {
    "exact_match": exact_match,
    "f1": token_f1,
    "bleu": bleu,
    "rouge": rouge,
    "chrf": chrf,
    "accuracy": accuracy,
}


def metric_names(text: str) -> tuple[str, ...]:
    """Names in a comma-separated list; a `UserError` suggests the nearest for an unknown one."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in METRICS:
            raise UserError(f"unknown metric '{name}'", near_names(name, METRICS))
    if not names:
        raise UserError("--metrics is empty", f"known: {', '.join(METRICS)}")
    return names


def score_answers(
    answers: Sequence[str], references: Sequence[str], metrics: Sequence[str]
) -> dict[str, float]:
    """All scores of the metrics named, in their order; `rouge` gives three."""
    scores: dict[str, float] = {}
    for name in metrics:
        scores.update(METRICS[name](answers, references))
    return scores


class _Words:
    """`words` as rouge-score wants a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def _f1(answer: str, reference: str) -> float:
    got, wanted = (
        [word for word in words(text) if word not in _ARTICLES] for text in (answer, reference)
    )
    if not got or not wanted:
        return float(got == wanted)
    shared = sum((Counter(got) & Counter(wanted)).values())
    return 2 * shared / (len(got) + len(wanted))


def _label(text: str) -> str:
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.strip(".,;:!?\"'。、；：！？“”‘’ ")


def _mean(values: Sequence[Any]) -> float:
    return float(sum(values) / len(values))
