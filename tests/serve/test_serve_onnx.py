"""`edgeforge serve` over onnxruntime: a decoder, an embedding model; a classifier is refused."""

from __future__ import annotations

import base64
import struct
from pathlib import Path

import pytest
import tiny_encoders
from servers import serving
from tiny_models import tiny_llama
from tiny_onnx import exported

from toolchain.cli import main
from toolchain.encoders import open_embedder
from toolchain.models import open_model


def test_a_decoder_answers_as_it_does_without_the_server(tmp_path: Path) -> None:
    folder = exported(tiny_llama(tmp_path / "tiny"), tmp_path / "onnx").path
    messages = [{"role": "user", "content": "lamp on"}]
    with open_model(str(folder)) as model:
        expected = model.runtime.generate(model.prompt_ids(messages), 12)
    with serving(folder) as running:
        status, made = running.post("/chat/completions", messages=messages, max_tokens=12)
        assert status == 200
        assert made["choices"][0]["message"]["content"] == expected.text
        assert made["usage"]["completion_tokens"] == len(expected.token_ids)


def test_an_embedding_model_gives_its_vectors() -> None:
    folder = tiny_encoders.exported("embedding").path
    texts = ["a fine film", "a dull one"]
    with open_embedder(str(folder)) as model:
        expected = model.engine.embed(texts)
    with serving(folder) as running:
        status, made = running.post("/embeddings", input=texts)
        assert status == 200
        for row, vector in zip(made["data"], expected, strict=True):
            assert row["embedding"] == pytest.approx(vector.tolist(), abs=1e-5)
        packed = running.post("/embeddings", input=texts[0], encoding_format="base64")[1]
        data = base64.b64decode(packed["data"][0]["embedding"])
        assert struct.unpack(f"<{len(data) // 4}f", data) == pytest.approx(
            expected[0].tolist(), abs=1e-5
        )
        assert running.post("/embeddings", input=["x", " "])[0] == 400
        assert running.post("/chat/completions", messages=[])[0] == 404


def test_a_classifier_is_refused_with_the_verb_that_takes_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tiny_encoders.checkpoint("sequence-classification")
    assert main(["serve", str(folder), "--port", "0"]) == 2
    assert "edgeforge classify" in capsys.readouterr().err
