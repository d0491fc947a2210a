"""Models of all kinds measured alone and against each other, with real engines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_llama

from common.errors import UserError
from toolchain.artifact import Artifact
from toolchain.evaluate.compare import Settings, evaluate
from toolchain.evaluate.generate import answer_task
from toolchain.export.gguf import convert
from toolchain.models import OpenOptions, open_model
from toolchain.trust.sums import write_sums

TEXT = "The lamp in the kitchen is on, isn't it?\n把客厅的灯打开，然后关掉空调。 x = a[1]\n" * 6
OPTIONS = OpenOptions(context_tokens=256, parallel=2, exact=True)


def text_only(text: Path) -> Settings:
    return Settings(text=text, with_task=False, text_tokens=200, chunk_tokens=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return tiny_llama(folder / "checkpoint", hidden=128, ffn=96)


@pytest.fixture(scope="module")
def gguf(folder: Path, checkpoint: Path) -> Path:
    (folder / "gguf").mkdir()
    config = convert.Config(intermediate="f32", model_name="tiny")
    source = Artifact(checkpoint, "hf", {}, "input")
    return convert.run(source, config, folder / "gguf").only(".gguf")


@pytest.fixture(scope="module")
def text(folder: Path) -> Path:
    (folder / "text.txt").write_text(TEXT, "utf-8")
    return folder / "text.txt"


def test_perplexity_equals_torch_by_hand(checkpoint: Path, text: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = Settings(text=text, with_task=False, text_tokens=100)
    found = evaluate(str(checkpoint), settings, options=OPTIONS).result
    ids = AutoTokenizer.from_pretrained(checkpoint)(TEXT.removesuffix("\n"))["input_ids"][:101]
    network = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        loss = network(torch.tensor([ids]), labels=torch.tensor([ids])).loss
    assert found.perplexity is not None
    assert found.perplexity == pytest.approx(float(torch.exp(loss)), rel=1e-4)
    assert found.perplexity_stderr is not None
    assert 0 < found.perplexity_stderr < found.perplexity / 5
    assert found.scores == {}


def test_a_checkpoint_and_its_own_gguf_are_the_same(
    checkpoint: Path, gguf: Path, text: Path
) -> None:
    settings = text_only(text)
    found = evaluate(str(gguf), settings, against=str(checkpoint), options=OPTIONS)
    assert found.comparison is not None and found.other is not None
    assert 0 <= found.comparison["kld_mean"] < 1e-6
    assert found.comparison["top1_agreement"] == 1
    assert found.comparison["positions"] == 200
    assert found.result.perplexity == pytest.approx(found.other.perplexity, rel=1e-5)
    alone = evaluate(str(checkpoint), settings, options=OPTIONS).result
    assert found.other.perplexity == pytest.approx(alone.perplexity, rel=1e-6)
    assert found.result.model["engine"] == "llama.cpp" and alone.model["engine"] == "torch"


def test_another_model_is_told_apart(folder: Path, checkpoint: Path, text: Path) -> None:
    other = tiny_llama(folder / "other", hidden=128, ffn=96, seed=1)
    found = evaluate(str(other), text_only(text), against=str(checkpoint), options=OPTIONS)
    assert found.comparison is not None
    assert found.comparison["kld_mean"] > 1e-3
    assert found.comparison["top1_agreement"] < 0.9


def test_different_vocabularies_are_refused(folder: Path, checkpoint: Path, text: Path) -> None:
    wide = tiny_llama(folder / "wide", hidden=128, ffn=96, vocab=340)
    settings = text_only(text)
    with pytest.raises(UserError, match=r"vocabularies differ: wide has 340 .* has 320"):
        evaluate(str(wide), settings, against=str(checkpoint), options=OPTIONS)
    # as many tokens, but two of them swapped
    swapped = folder / "swapped"
    shutil.copytree(checkpoint, swapped)
    tokenizer = json.loads((swapped / "tokenizer.json").read_text("utf-8"))
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["e"] = vocab["e"], vocab["a"]
    (swapped / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(UserError, match=r"swapped and checkpoint part on .* is \d+ and \d+"):
        evaluate(str(swapped), settings, against=str(checkpoint), options=OPTIONS)


def test_task_answers_are_scored_side_by_side(folder: Path, checkpoint: Path, gguf: Path) -> None:
    questions = [f"lamp {number} on" for number in range(6)]
    task = folder / "task.jsonl"

    def write(answers: list[str]) -> None:
        rows = [
            {"messages": [{"role": "user", "content": question}], "answer": answer}
            for question, answer in zip(questions, answers, strict=True)
        ]
        task.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    write(["none"] * 6)
    settings = Settings(task=task, with_text=False, max_tokens=6, metrics=("exact_match", "bleu"))
    said = [a.answer for a in evaluate(str(gguf), settings, options=OPTIONS).result.answers]
    write([*said[:3], "none", "none", "none"])  # the model is right on exactly three
    found = evaluate(str(gguf), settings, against=str(checkpoint), options=OPTIONS)
    assert found.other is not None
    assert found.result.scores["exact_match"] == found.other.scores["exact_match"] == 0.5
    assert [a.answer for a in found.other.answers] == said
    assert list(found.result.scores) == ["exact_match", "bleu"]
    assert found.result.perplexity is None and found.text is None
    few = evaluate(
        str(gguf), Settings(task=task, with_text=False, examples=2, max_tokens=6), options=OPTIONS
    )
    assert len(few.result.answers) == 2
    assert few.task == {"examples": 2, "available_examples": 6}


def test_companion_data_of_the_reference_serves_both(
    folder: Path, checkpoint: Path, gguf: Path
) -> None:
    with_data = folder / "with-data"
    shutil.copytree(checkpoint, with_data)
    (with_data / "edgeforge").mkdir()
    turns = [{"role": "user", "content": "lamp on"}, {"role": "assistant", "content": "done"}]
    (with_data / "edgeforge" / "evaluation.jsonl").write_text(json.dumps({"messages": turns}))
    (with_data / "edgeforge" / "task.jsonl").write_text(
        json.dumps({"messages": turns[:1], "answer": "done"})
    )
    found = evaluate(str(gguf), Settings(), against=str(with_data), options=OPTIONS)
    assert found.text is not None and found.text["name"] == "edgeforge/evaluation.jsonl"
    assert len(found.result.answers) == 1


def test_a_conversation_is_measured_on_a_bare_gguf(folder: Path, gguf: Path) -> None:
    path = folder / "conversations.jsonl"
    turns = [{"role": "user", "content": "lamp on"}, {"role": "assistant", "content": "done"}]
    path.write_text(json.dumps({"messages": turns}), "utf-8")
    found = evaluate(str(gguf), Settings(text=path, with_task=False), options=OPTIONS)
    assert found.text is not None
    with open_model(str(gguf), OPTIONS) as model:
        rendered = "<|im_start|>user\nlamp on<|im_end|>\n<|im_start|>assistant\ndone<|im_end|>\n"
        assert found.text["available_tokens"] == len(model.runtime.tokenize(rendered))


def test_a_bundle_is_checked_before_it_runs(folder: Path, gguf: Path, text: Path) -> None:
    bundle = folder / "laptop"
    bundle.mkdir()
    shutil.copy(gguf, bundle / "model.gguf")
    profile = {"model": "tiny", "target": "laptop", "model_file": "model.gguf",
               "kv_cache_type": "q8_0"}  # fmt: skip
    (bundle / "profile.json").write_text(json.dumps(profile))
    (bundle / "manifest.json").write_text("{}")
    write_sums(bundle)
    options = OpenOptions(context_tokens=256)
    with open_model(str(bundle), options) as model:
        assert (model.kind, model.name) == ("bundle", "tiny (laptop)")
        assert model.facts["kv_cache_type"] == "q8_0"
        assert np.isfinite(model.runtime.logits([5, 6])).all()
    with (bundle / "model.gguf").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x55")
    with pytest.raises(UserError, match="is damaged"):
        open_model(str(bundle), options)


def test_an_adapter_changes_its_base(folder: Path, checkpoint: Path, text: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    adapted = get_peft_model(
        network, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    ).eval()
    adapted.save_pretrained(folder / "adapter")
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == str(checkpoint)
    with open_model(str(folder / "adapter"), OPTIONS) as model:
        assert model.kind == "adapter" and model.facts["base"] == str(checkpoint)
        with torch.inference_mode():
            expected = adapted(torch.tensor([[5, 6, 7]])).logits[0].numpy()
        assert np.abs(model.runtime.logits([5, 6, 7]) - expected).max() < 1e-5
        changed = model.runtime.logits([5, 6, 7])
    with open_model(str(checkpoint), OPTIONS) as model:
        assert np.abs(model.runtime.logits([5, 6, 7]) - changed).max() > 1e-3


def test_a_prompt_that_does_not_fit_is_named(folder: Path, gguf: Path) -> None:
    from toolchain.data.text import TaskExample

    example = TaskExample(({"role": "user", "content": "lamp " * 300},), "on")
    with open_model(str(gguf), OPTIONS) as model, pytest.raises(UserError, match="has 256"):
        answer_task(model, [example])
