"""The ONNX encoders' runtime: right whatever the batch, alone without torch, plain about faults."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoders import TAGS, exported, texts
from tiny_models import SENTENCES

from common.errors import UserError
from runtimes import ort_encoder
from runtimes.ort_encoder import (
    FACTS,
    MODEL,
    TOKENIZER,
    OrtTagger,
    open_classifier,
    open_embedder,
    open_encoder,
)
from runtimes.protocol import Classifier, Embedder, TokenTagger
from toolchain import child, encoders


def copy_of(tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported().path, tmp_path / "copy"))


def test_each_is_what_the_protocols_ask() -> None:
    with open_encoder(exported().path) as model:
        assert isinstance(model, Classifier)
    with open_encoder(exported("embedding").path) as model:
        assert isinstance(model, Embedder) and model.width == 64
    with open_encoder(exported("token-classification").path) as model:
        assert isinstance(model, TokenTagger) and model.labels == TAGS


def test_batches_change_no_answer_and_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = [*texts(30), "lamp " * 300, "", *SENTENCES]
    with open_classifier(exported().path) as model:
        alone = np.concatenate([model.scores([text]) for text in mixed])
        sizes: list[int] = []
        run = model.run
        monkeypatch.setattr(model, "run", lambda x: (sizes.append(x["input_ids"].size), run(x))[1])
        monkeypatch.setattr(ort_encoder, "_BATCH_TOKENS", 150)
        np.testing.assert_allclose(model.scores(mixed), alone, atol=1e-5)
        assert max(sizes) <= 150 and len(sizes) < len(mixed)
        assert model.scores([]).shape == (0, 2)


def test_texts_beyond_the_limit_are_cut() -> None:
    with open_embedder(exported("embedding").path) as model:
        assert len(model.encode(["lamp " * 300])[0].ids) == model.facts.max_tokens == 128
        assert np.array_equal(model.embed(["lamp " * 300]), model.embed(["lamp " * 400]))


def test_words_and_tokens_of_a_tagger_agree() -> None:
    text = "Turn on the lamp, please"
    with open_encoder(exported("token-classification").path) as model:
        assert isinstance(model, OrtTagger)
        (scores,) = model.token_scores([text])
        pieces = [text[start:end] for start, end in scores.spans]
        assert pieces[:5] == ["Turn", "on", "the", "lamp", ","] and pieces[-1] == "please"
        assert scores.logits.shape == (len(pieces), 3)
        (rows,) = model.word_scores([["turn", "on", "the", "lamp", ",", "please"]])
        np.testing.assert_allclose(rows[:4], scores.logits[:4], atol=1e-5)
        (cut,) = model.word_scores([["lamp"] * 200])
        assert cut.shape == (200, 3) and not cut[130:].any() and cut[:100].any(axis=1).all()


def test_it_runs_without_torch_and_transformers() -> None:
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from runtimes.ort_encoder import open_classifier\n"
        "model = open_classifier(Path(sys.argv[1]))\n"
        "print(model.scores(['the lamp']).shape)\n"
        "print(sorted({'torch', 'transformers', 'onnx', 'toolchain'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", program, str(exported().path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=child.environment()
    )
    assert done.stdout.splitlines() == ["(1, 2)", "[]"]


def test_a_closed_encoder_says_so_and_may_be_closed_twice() -> None:
    model = open_classifier(exported().path)
    model.close()
    model.close()
    with pytest.raises(ValueError, match="closed"):
        model.scores(["the lamp"])


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (FACTS, None, "is no ONNX encoder"),
        (FACTS, "{}", "lacks task, labels"),
        (TOKENIZER, None, r"tokenizer\.json is missing"),
        (TOKENIZER, "{}", r"tokenizer\.json does not load"),
        (MODEL, None, r"model\.onnx is missing"),
        (MODEL, "half a file", r"model\.onnx is cut short"),
    ],
)
def test_broken_folders(name: str, content: str | None, problem: str, tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=problem):
        open_encoder(folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"task": "translation"}, "unknown task: translation"),
        ({"inputs": ["input_ids"]}, r"takes input_ids, .*says input_ids"),
    ],
)
def test_facts_that_do_not_fit(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    said = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps({**said, **change}))
    with pytest.raises(UserError, match=problem):
        open_encoder(folder)


def test_another_task_than_asked_for() -> None:
    with pytest.raises(UserError, match="is for embedding, not for sequence-classification"):
        open_classifier(exported("embedding").path)
    with pytest.raises(UserError, match="is for sequence-classification, not for embedding"):
        open_embedder(exported().path)


def test_an_onnx_folder_opens_like_any_encoder() -> None:
    with encoders.open_classifier(str(exported().path)) as model:
        assert (model.kind, model.facts["engine"]) == ("onnx", "onnxruntime")
        with open_classifier(exported().path) as plain:
            np.testing.assert_array_equal(model.engine.scores(texts(3)), plain.scores(texts(3)))
