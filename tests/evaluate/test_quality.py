"""What quantization costs, measured against the reference; the task score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import tiny_llama

from common.errors import UserError
from toolchain.artifact import Artifact
from toolchain.data.text import TaskExample
from toolchain.evaluate import parity, quality
from toolchain.evaluate.task import answer_examples, choose_examples
from toolchain.export.gguf import convert, quantize
from toolchain.stage import Input

TEXT = "The lamp in the kitchen is on, isn't it?\n把客厅的灯打开，然后关掉空调。 x = a[1]\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quality")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return tiny_llama(folder / "checkpoint", hidden=128, ffn=256)


@pytest.fixture(scope="module")
def gguf(folder: Path, checkpoint: Path) -> Artifact:
    (folder / "gguf").mkdir()
    source = Artifact(checkpoint, "hf", {}, "input")
    config = convert.Config(intermediate="f32", model_name="tiny")
    return convert.run(source, config, folder / "gguf")


@pytest.fixture(scope="module")
def evaluation(folder: Path) -> Path:
    path = folder / "evaluation.txt"
    path.write_text(TEXT * 12, "utf-8")
    return path


@pytest.fixture(scope="module")
def reference(folder: Path, checkpoint: Path, gguf: Artifact, evaluation: Path) -> Input:
    (folder / "reference").mkdir()
    config = parity.Config(
        checkpoint=Input(digest="checkpoint", path=checkpoint),
        evaluation=Input.of_file(evaluation),
        context_tokens=128,
        max_tokens=400,
    )
    return Input.of_artifact(parity.run(gguf, config, folder / "reference"))


def quantized(gguf: Artifact, kind: str, out: Path) -> Artifact:
    out.mkdir()
    return quantize.run(gguf, quantize.Config(quantization=kind), out)


def measured(file: Artifact, reference: Input, out: Path, task: Path | None = None) -> Artifact:
    out.mkdir()
    chosen = Input.of_file(task) if task else None
    return quality.run(file, quality.Config(reference=reference, task=chosen), out)


def test_the_unquantized_file_loses_nothing(
    gguf: Artifact, reference: Input, tmp_path: Path
) -> None:
    figures = measured(gguf, reference, tmp_path / "out").measurements
    # Other thread counts may split sums in another way, hence not exactly 0.
    assert abs(figures["kld_mean"]) < 1e-9
    assert figures["top1_agreement"] == 1.0
    assert figures["perplexity"] == pytest.approx(figures["reference_perplexity"], rel=1e-6)
    assert figures["positions"] == 400
    assert figures["evaluation"]["name"] == "evaluation.txt"
    assert figures["task"] is None


def test_fewer_bits_cost_more(gguf: Artifact, reference: Input, tmp_path: Path) -> None:
    klds = []
    for kind in ("Q8_0", "Q4_0", "Q2_K"):
        file = quantized(gguf, kind, tmp_path / kind)
        result = measured(file, reference, tmp_path / f"{kind}-quality")
        stored = json.loads(result.file("evaluation.json").read_text("utf-8"))
        times = {"text_sec", "task_sec"}  # in the description only: the file must be reproducible
        assert stored == {k: v for k, v in result.measurements.items() if k not in times}
        assert stored["kld_mean"] < stored["kld_p99"] <= stored["kld_max"]
        klds.append(stored["kld_mean"])
    assert 1e-9 < klds[0] < klds[1] / 5
    assert klds[1] < klds[2]


def test_another_models_reference_is_refused(reference: Input, tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other", hidden=64, ffn=96, vocab=290)
    (tmp_path / "gguf").mkdir()
    file = convert.run(
        Artifact(other, "hf", {}, "input"),
        convert.Config(intermediate="f32", model_name="other"),
        tmp_path / "gguf",
    )
    with pytest.raises(UserError, match="has 290 tokens, the reference 320"):
        measured(file, reference, tmp_path / "out")


@pytest.fixture(scope="module")
def parrot(folder: Path) -> Artifact:
    """A file that answers "on" to everything, then stops: each of these tokens calls for the next
    by an output row equal to the former's embedding; attention and FFN add nothing."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    checkpoint = tiny_llama(folder / "parrot", hidden=64, ffn=96)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    last = tokenizer("<|im_start|>assistant\n")["input_ids"][-1]
    chain = [last, *tokenizer("o")["input_ids"], *tokenizer("n")["input_ids"]]
    weights = load_file(checkpoint / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
            weight.zero_()
    embeddings, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    for token, following in zip(chain, [*chain[1:], tokenizer.eos_token_id], strict=True):
        head[following] = embeddings[token]
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    (folder / "parrot-gguf").mkdir()
    return convert.run(
        Artifact(checkpoint, "hf", {}, "input"),
        convert.Config(intermediate="f32", model_name="parrot"),
        folder / "parrot-gguf",
    )


def test_answers_are_compared_whole(parrot: Artifact) -> None:
    examples = [
        TaskExample(({"role": "user", "content": f"Turn on lamp {i}" * (i + 1)},), answer)
        for i, answer in enumerate(["on", "off", " on\n", "o", "on.", "on"])
    ]
    answers = answer_examples(parrot.only(".gguf"), examples, parallel=4)
    assert [answer.answer for answer in answers] == ["on"] * 6
    assert [answer.right for answer in answers] == [True, False, True, False, False, True]
    assert all(answer.stopped for answer in answers)


def test_the_task_score_is_stored(
    parrot: Artifact, folder: Path, tmp_path: Path, evaluation: Path
) -> None:
    (tmp_path / "proof").mkdir()
    config = parity.Config(
        checkpoint=Input(digest="parrot", path=folder / "parrot"),
        evaluation=Input.of_file(evaluation),
        max_tokens=50,
    )
    proof = Input.of_artifact(parity.run(parrot, config, tmp_path / "proof"))
    task = tmp_path / "task.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"{i}?"}], "answer": answer}
        for i, answer in enumerate(["on", "off", "on", "on"])
    ]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    result = measured(parrot, proof, tmp_path / "out", task)
    outcome = [json.loads(x) for x in result.file("answers.jsonl").read_text("utf-8").splitlines()]
    assert [row["right"] for row in outcome] == [True, False, True, True]
    score = result.measurements["task"]
    assert (score["score"], score["right"], score["examples"]) == (0.75, 3, 4)


def test_a_task_without_chat_template_is_refused(tmp_path: Path) -> None:
    plain = tiny_llama(tmp_path / "plain", hidden=64, ffn=96, chat_template=False)
    (tmp_path / "gguf").mkdir()
    file = convert.run(
        Artifact(plain, "hf", {}, "input"),
        convert.Config(intermediate="f32", model_name="plain"),
        tmp_path / "gguf",
    ).only(".gguf")
    example = TaskExample(({"role": "user", "content": "x"},), "y")
    with pytest.raises(UserError, match="no chat template"):
        answer_examples(file, [example])


def test_examples_are_chosen_by_the_seed() -> None:
    examples = [TaskExample(({"role": "user", "content": str(i)},), str(i)) for i in range(50)]
    assert choose_examples(examples, 50, 0) == examples
    first = choose_examples(examples, 10, 0)
    assert first == choose_examples(examples, 10, 0) != choose_examples(examples, 10, 1)
    assert len(first) == 10
