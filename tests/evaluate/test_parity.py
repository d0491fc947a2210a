"""The proof that a GGUF is its checkpoint: it passes for a true export and fails for each fault."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_llama

from common.errors import UserError
from toolchain.artifact import Artifact
from toolchain.evaluate import parity
from toolchain.evaluate.gate import ParityError
from toolchain.evaluate.reference import load_reference
from toolchain.export.gguf import convert
from toolchain.stage import Input

STORIES = Path(__file__).parents[3] / "shared" / "assets" / "models" / "stories260K-hf"
TEXT = "The lamp in the kitchen is on, isn't it?\n把客厅的灯打开，然后关掉空调。 x = a[1]\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny") / "checkpoint", hidden=64, ffn=96)


@pytest.fixture(scope="module")
def gguf(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return converted(checkpoint, tmp_path_factory.mktemp("gguf"))


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    path = tmp_path / "evaluation.txt"
    path.write_text("\n<|document|>\n".join(f"{i} {TEXT * 3}" for i in range(6)), "utf-8")
    return path


def converted(checkpoint: Path, out: Path) -> Artifact:
    source = Artifact(checkpoint, "hf", {}, "input")
    return convert.run(source, convert.Config(intermediate="f32", model_name="tiny"), out)


def prove(
    gguf: Artifact, checkpoint: Path, evaluation: Path, out: Path, **options: Any
) -> Artifact:
    out.mkdir()
    config = parity.Config(
        checkpoint=Input(digest="checkpoint", path=checkpoint),
        evaluation=Input.of_file(evaluation),
        **{"context_tokens": 64, **options},
    )
    return parity.run(gguf, config, out)


def failed_gates(error: pytest.ExceptionInfo[ParityError]) -> list[str]:
    return [gate.name for gate in error.value.gates]


def changed(checkpoint: Path, folder: Path) -> Path:
    return Path(shutil.copytree(checkpoint, folder))


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


def test_a_true_export_passes_every_gate(
    gguf: Artifact, checkpoint: Path, evaluation: Path, tmp_path: Path
) -> None:
    proof = prove(gguf, checkpoint, evaluation, tmp_path / "out")
    figures = proof.measurements
    assert [gate["name"] for gate in figures["gates"]] == [
        "token ids",
        "chat prompt",
        "stop tokens",
        "logits top-1 agreement",
        "logits mean KLD",
    ]
    assert all(gate["passed"] for gate in figures["gates"])
    assert figures["logits"]["top1_agreement"] == 1.0
    assert 0 <= figures["logits"]["kld_mean"] < 1e-8
    assert figures["torch"]["perplexity"] == pytest.approx(
        figures["unquantized_exact"]["perplexity"], rel=1e-5
    )
    assert figures["evaluation"]["documents"] == 6
    assert not (tmp_path / "out" / "torch-logits.f32").exists()
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_the_reference_holds_the_files_own_logits(
    gguf: Artifact, checkpoint: Path, evaluation: Path, tmp_path: Path
) -> None:
    from runtimes.llama import LlamaModel

    proof = prove(gguf, checkpoint, evaluation, tmp_path / "out", max_tokens=150)
    reference = load_reference(proof.path)
    assert sum(len(chunk) - 1 for chunk in reference.tokens) == 150 == len(reference.logits)
    with LlamaModel(gguf.only(".gguf"), context_tokens=64) as model:
        expected = model.logits(reference.tokens[0])[:-1]
    assert np.abs(reference.logits[: len(expected)] - expected).max() < 1e-3


def test_the_caps_hold_and_are_stated(
    gguf: Artifact, checkpoint: Path, evaluation: Path, tmp_path: Path
) -> None:
    proof = prove(
        gguf, checkpoint, evaluation, tmp_path / "out", max_reference_bytes=320 * 4 * 40 + 5
    )
    logits = proof.file("reference-logits.f32")
    facts = proof.measurements["evaluation"]
    assert logits.stat().st_size <= 320 * 4 * 40 + 5
    assert facts["scored_tokens"] == logits.stat().st_size // (4 * 320) < facts["available_tokens"]


def test_a_changed_weight_fails_the_logits(
    gguf: Artifact, checkpoint: Path, evaluation: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    other = changed(checkpoint, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    embeddings = weights["model.embed_tokens.weight"]
    embeddings[40:80] = embeddings[80:120].clone()
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(ParityError, match="logits mean KLD: FAILED") as error:
        prove(gguf, other, evaluation, tmp_path / "out")
    assert set(failed_gates(error)) <= {"logits mean KLD", "logits top-1 agreement"}
    assert list((tmp_path / "out").iterdir()) == []


def test_changed_merges_fail_the_token_ids(
    gguf: Artifact, checkpoint: Path, evaluation: Path, tmp_path: Path
) -> None:
    other = changed(checkpoint, tmp_path / "other")
    data = json.loads((other / "tokenizer.json").read_text("utf-8"))
    merges = data["model"]["merges"]
    data["model"]["merges"] = merges[1:2] + merges[:1] + merges[2:-3]
    (other / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    with pytest.raises(ParityError, match=r"token ids: FAILED.*at token \d+ after") as error:
        prove(gguf, other, evaluation, tmp_path / "out")
    assert "token ids" in failed_gates(error)


def test_a_tokenizer_that_splits_numbers_otherwise_fails_the_token_ids(
    gguf: Artifact, checkpoint: Path, evaluation: Path, tmp_path: Path
) -> None:
    other = changed(checkpoint, tmp_path / "other")
    text = (other / "tokenizer.json").read_text("utf-8")
    assert "?!\\\\S" in text
    (other / "tokenizer.json").write_text(text.replace("|\\\\s+(?!\\\\S)", ""), "utf-8")
    with pytest.raises(ParityError, match="token ids: FAILED"):
        prove(gguf, other, evaluation, tmp_path / "out")


def test_a_changed_chat_template_fails_the_prompt(
    gguf: Artifact, checkpoint: Path, evaluation: Path, tmp_path: Path
) -> None:
    other = changed(checkpoint, tmp_path / "other")
    template = other / "chat_template.jinja"
    template.write_text(
        template.read_text("utf-8").replace("message['content']", "message['content'] | trim"),
        "utf-8",
    )
    with pytest.raises(ParityError, match=r"chat prompt: FAILED.*at character") as error:
        prove(gguf, other, evaluation, tmp_path / "out")
    assert failed_gates(error) == ["chat prompt"]


def test_a_lost_chat_template_fails_the_prompt(
    gguf: Artifact, checkpoint: Path, evaluation: Path, tmp_path: Path
) -> None:
    other = changed(checkpoint, tmp_path / "other")
    (other / "chat_template.jinja").unlink()
    with pytest.raises(ParityError, match="the checkpoint has no chat template") as error:
        prove(gguf, other, evaluation, tmp_path / "out")
    assert failed_gates(error) == ["chat prompt"]


def test_a_stop_token_that_the_file_does_not_know_fails(
    gguf: Artifact, checkpoint: Path, evaluation: Path, tmp_path: Path
) -> None:
    other = changed(checkpoint, tmp_path / "other")
    edit_json(other / "generation_config.json", eos_token_id=1)
    with pytest.raises(ParityError, match=r"stop tokens: FAILED.*1 '<\|im_start\|>'") as error:
        prove(gguf, other, evaluation, tmp_path / "out")
    assert failed_gates(error) == ["stop tokens"]


def test_further_stop_tokens_become_stop_parameters(
    gguf: Artifact, checkpoint: Path, evaluation: Path, tmp_path: Path
) -> None:
    other = changed(checkpoint, tmp_path / "other")
    edit_json(other / "generation_config.json", eos_token_id=[1, 2])
    proof = prove(gguf, other, evaluation, tmp_path / "out", max_tokens=40)
    assert proof.measurements["stop"] == {"end_ids": [1, 2], "extra_stop_ids": [1]}


def test_without_a_chat_template_the_prompt_gate_does_not_apply(
    evaluation: Path, tmp_path: Path
) -> None:
    checkpoint = tiny_llama(tmp_path / "plain", hidden=64, ffn=96, chat_template=False)
    (tmp_path / "gguf").mkdir()
    gguf = converted(checkpoint, tmp_path / "gguf")
    proof = prove(gguf, checkpoint, evaluation, tmp_path / "out", max_tokens=40)
    gate = next(g for g in proof.measurements["gates"] if g["name"] == "chat prompt")
    assert gate["figure"] is None
    assert gate["detail"].startswith("not applicable")


def test_a_checkpoint_that_does_not_load_is_named(
    gguf: Artifact, evaluation: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"tokenizer of .*empty does not load"):
        prove(gguf, tmp_path / "empty", evaluation, tmp_path / "out")


def test_too_little_memory_is_said_before_the_weights_load(
    gguf: Artifact,
    checkpoint: Path,
    evaluation: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("toolchain.hf.free_memory_bytes", lambda: 1000)
    with pytest.raises(UserError, match="not enough memory to run"):
        prove(gguf, checkpoint, evaluation, tmp_path / "out")


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return converted(STORIES, tmp_path_factory.mktemp("stories"))


@pytest.mark.real_model
@pytest.mark.skipif(not STORIES.is_dir(), reason="../shared/assets is not there")
def test_a_trained_sentencepiece_model_passes(
    stories: Artifact, tmp_path: Path, evaluation: Path
) -> None:
    text = STORIES.parents[1] / "text" / "tinystories_train.txt"
    evaluation.write_bytes(text.read_bytes()[:20_000])
    proof = prove(stories, STORIES, evaluation, tmp_path / "out", context_tokens=512)
    assert proof.measurements["logits"]["top1_agreement"] >= 0.999
    assert proof.measurements["logits"]["kld_mean"] < 1e-6
    assert 2 < proof.measurements["torch"]["perplexity"] < 12
    tokens = proof.measurements["gates"][0]
    assert "3 texts with a leading space as SentencePiece has them" in tokens["detail"]


@pytest.mark.real_model
@pytest.mark.skipif(not STORIES.is_dir(), reason="../shared/assets is not there")
def test_leading_spaces_are_as_sentencepiece_has_them(stories: Artifact) -> None:
    from sentencepiece import SentencePieceProcessor

    from runtimes.llama import LlamaModel
    from toolchain.evaluate.awkward import AWKWARD_TEXTS

    oracle = SentencePieceProcessor(model_file=str(STORIES / "tokenizer.model"))
    with LlamaModel(stories.only(".gguf"), context_tokens=64) as model:
        for text in AWKWARD_TEXTS:
            assert model.tokenize(text) == oracle.encode(text)
