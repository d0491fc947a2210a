"""What a classifier, a tagger or an embedding model says of texts, as rows for people and programs.

for row in answers(model, ["a text"], top=3): ...
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from runtimes.protocol import Text, TokenScores
from toolchain.encoders import CLASSIFICATION, TAGGING, OpenEncoder

_TABLES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Mention:
    """A stretch of a text with its label; `start` and `end` in characters."""

    start: int
    end: int
    text: str
    label: str
    probability: float


def answers(model: OpenEncoder[Any], texts: Sequence[Text], top: int) -> list[dict[str, Any]]:
    """One row a text: `labels` with probabilities, likeliest first; `mentions`; or `vector`."""
    if model.task == CLASSIFICATION:
        found = [_likeliest(model.engine.labels, row, top) for row in model.engine.scores(texts)]
        return [
            {**_text_row(text), "label": labels[0]["label"], "labels": labels}
            for text, labels in zip(texts, found, strict=True)
        ]
    if model.task == TAGGING:
        plain = [text for text in texts if isinstance(text, str)]
        if len(plain) < len(texts):
            raise UserError(f"{model.name} finds names in one text, not in pairs")
        scores = zip(plain, model.engine.token_scores(plain), strict=True)
        return [
            {
                "text": text,
                "mentions": [asdict(m) for m in mentions(text, found, model.engine.labels)],
            }
            for text, found in scores
        ]
    vectors = model.engine.embed(texts)
    return [
        {**_text_row(text), "vector": [round(float(number), 7) for number in vector]}
        for text, vector in zip(texts, vectors, strict=True)
    ]


def mentions(text: str, scores: TokenScores, labels: Sequence[str]) -> list[Mention]:
    """Words with a label other than O, each with that of its first token.

    Labels that begin with B- and I- (the IOB scheme of CoNLL) join words to one mention; others
    stay one a word.
    """
    from toolchain.evaluate.logits import log_softmax

    found: list[Mention] = []
    joined = any(label.startswith(("B-", "I-")) for label in labels)
    rows = log_softmax(scores.logits) if len(scores.spans) else ()
    before, inside = -1, False
    for (start, end), row in zip(scores.spans, rows, strict=True):
        if start == before:  # the word goes on
            before = end
            if inside:
                found[-1] = _extended(found[-1], text, end)
            continue
        label, before = labels[int(row.argmax())], end
        kind = label[2:] if label.startswith(("B-", "I-")) else label
        goes_on = joined and inside and found[-1].label == kind and not label.startswith("B-")
        inside = label != "O"
        if inside and goes_on:
            found[-1] = _extended(found[-1], text, end)
        elif inside:
            probability = math.exp(float(row.max()))
            found.append(Mention(start, end, text[start:end], kind, round(probability, 6)))
    return found


def file_texts(path: Path) -> list[Text]:
    """Texts of a file: rows with text and perhaps text_pair, or plain text, one a line.

    Raises `UserError` for a file that is missing, empty or has no such column.
    """
    if not path.is_file():
        raise UserError(f"file {path} is missing", "check the path")
    texts: list[Text] = []
    if path.suffix.lower() in _TABLES:
        from toolchain.data.prepare.readers import read_rows

        for where, row in read_rows(path, cache=None, streaming=True):
            text, pair = row.get("text"), row.get("text_pair")
            if not isinstance(text, str):
                found = ", ".join(map(str, row)) or "nothing"
                raise UserError(f"{where} has no 'text'; found: {found}", "name a column text")
            texts.append((text, pair) if isinstance(pair, str) and pair else text)
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text: {error}", "save it as UTF-8") from None
        texts = [line for line in lines if line.strip()]
    if not texts:
        raise UserError(f"{path} has no texts", "give one text a line")
    return texts


def _likeliest(labels: Sequence[str], logits: Any, top: int) -> list[dict[str, Any]]:
    import numpy as np

    from toolchain.evaluate.logits import log_softmax

    shares = np.exp(log_softmax(logits[None])[0])
    order = np.argsort(-shares, kind="stable")[:top]
    return [{"label": labels[i], "probability": round(float(shares[i]), 6)} for i in order]


def _extended(mention: Mention, text: str, end: int) -> Mention:
    start = mention.start
    return Mention(start, end, text[start:end], mention.label, mention.probability)


def _text_row(text: Text) -> dict[str, Any]:
    return {"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
