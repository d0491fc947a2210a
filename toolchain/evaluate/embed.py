"""Measure an embedding model against another: how near their vectors of the same texts are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import UserError
from toolchain.data.text import evaluation_text
from toolchain.encoders import open_embedder
from toolchain.evaluate.task import choose_examples
from toolchain.models import OpenOptions, model_path

_MOST_TEXTS = 1000


def compare_embedders(
    model: str,
    against: str | None,
    *,
    text: Path | None,
    examples: int | None,
    seed: int,
    options: OpenOptions,
) -> dict[str, Any]:
    """Cosine of both models' vectors of each document: mean, least and 1st percentile.

    Raises `UserError` without another model, and when widths differ.
    """
    import numpy as np

    if against is None:
        raise UserError(
            f"{model} is an embedding model: its vectors are measured against another's",
            "name the other: --against OTHER",
        )
    source = evaluation_text(model_path(model, options), text)
    documents = choose_examples(source.documents, examples or _MOST_TEXTS, seed)
    with open_embedder(against, options) as opened:
        other, theirs = opened.as_json(), opened.engine.embed(documents)
    with open_embedder(model, options) as opened:
        mine, vectors = opened.as_json(), opened.engine.embed(documents)
    if vectors.shape != theirs.shape:
        raise UserError(
            f"{mine['name']} makes vectors of {vectors.shape[1]} numbers, "
            f"{other['name']} of {theirs.shape[1]}",
            "compare two versions of the same model",
        )
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = (vectors * theirs).sum(axis=1, dtype=np.float64) / np.maximum(lengths, 1e-12)
    return {
        "model": mine,
        "against": {"model": other},
        "text": {"name": source.name, "documents": len(documents)},
        "comparison": {
            "cosine_mean": float(cosine.mean()),
            "cosine_p01": float(np.quantile(cosine, 0.01)),
            "cosine_min": float(cosine.min()),
        },
    }
