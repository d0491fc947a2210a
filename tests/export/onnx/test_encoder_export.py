"""FP32 export of encoders: the same answers as transformers, reproducible files, clear refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from tiny_encoders import TAGS, as_source, checkpoint, export_here, exported, texts, tiny_family
from tiny_models import SENTENCES

from common.errors import UserError
from runtimes.ort_encoder import FACTS, MODEL, TOKENIZER, open_classifier, open_embedder, read_facts
from toolchain.export.onnx import encoder_driver, encoder_export, encoder_graph
from toolchain.export.onnx.encoder_facts import checkpoint_facts
from toolchain.export.onnx.encoder_graph import save, tidy, weight_matmuls
from toolchain.export.onnx.encoder_network import exported_network, input_names, load_network
from toolchain.export.onnx.encoder_parity import parity_gates


def torch_outputs(folder: Path, loader: str, inputs: list[Any]) -> Any:
    """What transformers gives for one padded batch."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = getattr(transformers, loader).from_pretrained(folder).eval()
    batch = tokenizer(inputs, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return network(**batch), batch["attention_mask"]


def test_classifier_gives_transformers_logits_for_texts_and_pairs() -> None:
    folder = checkpoint("sequence-classification")
    artifact = exported()
    assert artifact.format == "onnx-encoder"
    assert {"model.onnx", "encoder.json", "tokenizer.json", "config.json"} <= set(artifact.files)
    assert [gate["name"] for gate in artifact.measurements["gates"]] == [
        "outputs", "tokens", "texts",
    ]  # fmt: skip
    assert artifact.measurements["weight_matmuls"] == 2 * 6 + 2
    with open_classifier(artifact.path) as model:
        assert model.labels == ("negative", "positive")
        pairs = [(SENTENCES[0], SENTENCES[2]), (SENTENCES[1], "the lamp")]
        for inputs in ([*SENTENCES], pairs):
            wanted, _ = torch_outputs(folder, "AutoModelForSequenceClassification", inputs)
            np.testing.assert_allclose(model.scores(inputs), wanted.logits, atol=1e-4)


def test_embeddings_are_the_mean_of_their_tokens() -> None:
    wanted, mask = torch_outputs(checkpoint("embedding"), "AutoModel", [*SENTENCES])
    kept = mask.unsqueeze(-1)
    mean = ((wanted.last_hidden_state * kept).sum(1) / kept.sum(1)).numpy()
    with open_embedder(exported("embedding").path) as model:
        found = model.embed([*SENTENCES])
        assert model.facts.width == found.shape[1] == 64
    np.testing.assert_allclose(found, mean, atol=1e-5)


def test_same_bytes_again_and_no_path_of_this_machine(tmp_path: Path) -> None:
    first = exported().path
    export_here(checkpoint("sequence-classification"), tmp_path / "again")
    for name in (MODEL, FACTS, TOKENIZER):
        data = (tmp_path / "again" / name).read_bytes()
        assert data == (first / name).read_bytes(), name
        assert str(Path(__file__).parents[3]).encode() not in data
        assert b"/tmp" not in data


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_other_families(family: Literal["roberta", "distilbert"], tmp_path: Path) -> None:
    folder = tiny_family(tmp_path / family, family)
    answer = export_here(folder, tmp_path / "out")
    assert all(gate["passed"] for gate in answer["gates"])
    facts = read_facts(tmp_path / "out")
    assert facts.inputs == ("input_ids", "attention_mask")
    assert facts.max_tokens == (65 if family == "roberta" else 128)
    wanted, _ = torch_outputs(folder, "AutoModelForSequenceClassification", texts(9))
    with open_classifier(tmp_path / "out") as model:
        np.testing.assert_allclose(model.scores(texts(9)), wanted.logits, atol=1e-4)


def test_what_the_first_exporter_cannot_trace_goes_to_the_second(tmp_path: Path) -> None:
    import onnx

    folder = checkpoint("embedding")
    network, facts = network_of(folder)
    encoder_driver._dynamo(network, facts, tmp_path / "raw.onnx")
    shutil.copytree(exported("embedding").path, tmp_path / "out")
    save(tidy(onnx.load(str(tmp_path / "raw.onnx"))), tmp_path / "out")
    gates = parity_gates(tmp_path / "out", network, tokenizer_of(folder))
    assert all(gate.passed for gate in gates), [str(gate) for gate in gates]


def test_gates_see_other_weights_and_another_tokenizer(tmp_path: Path) -> None:
    import torch

    folder = checkpoint("sequence-classification")
    network, _ = network_of(folder)
    shutil.copytree(exported().path, tmp_path / "out")
    tokenizer = json.loads((tmp_path / "out" / TOKENIZER).read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (tmp_path / "out" / TOKENIZER).write_text(json.dumps(tokenizer))
    gates = {g.name: g for g in parity_gates(tmp_path / "out", network, tokenizer_of(folder))}
    assert gates["outputs"].passed and not gates["tokens"].passed and not gates["texts"].passed
    with torch.no_grad():
        network.model.classifier.bias += 0.01
    gates = {g.name: g for g in parity_gates(exported().path, network, tokenizer_of(folder))}
    assert gates["tokens"].passed and not gates["outputs"].passed


def test_a_checkpoint_without_the_head_is_refused_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no head for sequence-classification") as raised:
        encoder_export.config_for(checkpoint("embedding"), task="sequence-classification")
    assert "fine-tune it" in raised.value.mend
    folder = tmp_path / "claims"
    shutil.copytree(checkpoint("embedding"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"lacks weights .*classifier\.") as raised:
        export_here(folder, tmp_path / "out")
    assert "fine-tune it" in raised.value.mend


def test_the_stage_hands_on_a_fault_of_its_process(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(checkpoint("embedding"), folder)
    source = as_source(folder)
    config = encoder_export.config_for(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "vocab.txt").unlink(missing_ok=True)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"tokenizer of .*bert"):
        encoder_export.run(source, config, tmp_path / "out")


def test_a_language_model_head_is_neither(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    with pytest.raises(UserError, match="neither a classifier nor an embedding model"):
        checkpoint_facts(tmp_path)
    assert checkpoint_facts(tmp_path, task="embedding").pooling == "mean"
    with pytest.raises(UserError, match="did you mean 'embedding'"):
        checkpoint_facts(tmp_path, task="embeddings")


@pytest.mark.parametrize("mode", ["cls", "max", "lasttoken"])
def test_other_ways_to_pool_equal_the_runtimes(mode: Any, tmp_path: Path) -> None:
    from runtimes.pooling import Pooling, pool

    folder = checkpoint("embedding")
    export_here(folder, tmp_path / "out", pooling=mode)
    wanted, mask = torch_outputs(folder, "AutoModel", [*SENTENCES])
    right = pool(wanted.last_hidden_state.numpy(), mask.numpy(), Pooling(mode))
    with open_embedder(tmp_path / "out") as model:
        np.testing.assert_allclose(model.embed([*SENTENCES]), right, atol=1e-5)


def test_sentence_transformers_files_say_how_to_pool(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    files: dict[str, Any] = {
        "config.json": {"architectures": ["BertModel"], "max_position_embeddings": 512},
        "sentence_bert_config.json": {"max_seq_length": 256},
        "modules.json": [
            {"type": "sentence_transformers.models.Transformer", "path": ""},
            {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
            {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
        ],
        "1_Pooling/config.json": {"pooling_mode_cls_token": True},
    }
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    facts = checkpoint_facts(tmp_path)
    assert (facts.pooling, facts.normalize, facts.max_tokens) == ("cls", True, 256)


def test_large_models_keep_their_weights_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    shutil.copytree(exported().path, tmp_path / "out")
    before = onnx.load(str(exported().path / MODEL))
    monkeypatch.setattr(encoder_graph, "EXTERNAL_LIMIT_BYTES", 100_000)
    save(before, tmp_path / "out")
    beside = tmp_path / "out" / (MODEL + ".data")
    assert beside.stat().st_size > (tmp_path / "out" / MODEL).stat().st_size
    with open_classifier(tmp_path / "out") as model, open_classifier(exported().path) as plain:
        np.testing.assert_array_equal(model.scores(texts(3)), plain.scores(texts(3)))
    assert len(weight_matmuls(onnx.load(str(tmp_path / "out" / MODEL)))) == 14
    beside.unlink()
    with pytest.raises(UserError, match=r"model\.onnx\.data"):
        open_classifier(tmp_path / "out")


def test_a_tagger_is_exported_with_its_labels() -> None:
    facts = read_facts(exported("token-classification").path)
    assert facts.labels == TAGS and facts.task == "token-classification"


def network_of(folder: Path) -> tuple[Any, Any]:
    import dataclasses

    facts = checkpoint_facts(folder)
    network = load_network(folder, facts)
    facts = dataclasses.replace(facts, inputs=input_names(network))
    return exported_network(network, facts), facts


def tokenizer_of(folder: Path) -> Any:
    from toolchain.hf import load_tokenizer

    return load_tokenizer(folder)
