"""lm-evaluation-harness on the project's own models: the same figures as its Hugging Face model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_llama

from common.errors import UserError
from toolchain import cli
from toolchain.artifact import Artifact
from toolchain.evaluate.harness import run_harness
from toolchain.export.gguf import convert
from toolchain.models import OpenModel, OpenOptions, open_model

pytest.importorskip("lm_eval", reason="the extra harness is not installed")

QUESTIONS = ("Turn on the lamp in", "The quick brown fox", "把客厅的灯", "def f(a, b):", "3.14 < ")
CHOICES = (" the kitchen, please.", " lazy dogs", "打开")
TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: questions.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{right}}"
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("harness")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return tiny_llama(folder / "model", hidden=64, ffn=96)


@pytest.fixture(scope="module")
def opened(checkpoint: Path) -> Iterator[OpenModel]:
    with open_model(str(checkpoint), OpenOptions(context_tokens=64)) as model:
        yield model


@pytest.fixture(scope="module")
def tasks(folder: Path) -> Path:
    path = folder / "tasks"
    path.mkdir()
    rows = [
        {"question": question, "choices": list(CHOICES), "right": number % 3}
        for number, question in enumerate(QUESTIONS)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (path / "questions.jsonl").write_text(lines, "utf-8")
    (path / "tiny_choice.yaml").write_text(TASK, "utf-8")
    absent = TASK.replace("tiny_choice", "tiny_absent").replace("questions.jsonl", "absent.jsonl")
    (path / "absent.yaml").write_text(absent, "utf-8")
    return path


def requests(kind: str, pairs: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, pair, n, ("t", n, 1)) for n, pair in enumerate(pairs)]


def test_figures_are_those_of_the_harness_own_model(checkpoint: Path, opened: OpenModel) -> None:
    from lm_eval.models.huggingface import HFLM

    from toolchain.evaluate.harness_model import HarnessModel

    theirs = HFLM(pretrained=str(checkpoint), device="cpu", dtype="float32", max_length=64)
    mine = HarnessModel(opened)
    pairs: list[tuple[Any, ...]] = [(q, c) for q in QUESTIONS for c in CHOICES]
    pairs += [("", "no context"), ("word " * 90, "after a long one"), ("ends in space ", "next")]
    asked = requests("loglikelihood", pairs)
    wanted = theirs.loglikelihood(asked, disable_tqdm=True)
    found = mine.loglikelihood(asked, disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([s for s, _ in wanted], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    texts = requests("loglikelihood_rolling", [(QUESTIONS[0],), ("一段很长的文字 " * 40,)])
    rolled = theirs.loglikelihood_rolling(texts, disable_tqdm=True)
    assert mine.loglikelihood_rolling(texts) == pytest.approx(rolled, rel=1e-5, abs=1e-3)
    settings = {"until": ["zzz"], "max_gen_toks": 8, "do_sample": False}
    prompts = requests("generate_until", [(question, dict(settings)) for question in QUESTIONS])
    answers = mine.generate_until(prompts)
    assert answers == theirs.generate_until(prompts, disable_tqdm=True)
    stop = next(letter for answer in answers for letter in answer[2:] if letter.strip())
    cut = requests("generate_until", [(q, {**settings, "until": [stop]}) for q in QUESTIONS])
    assert mine.generate_until(cut) == [answer.split(stop)[0] for answer in answers]


def test_a_likelihood_by_hand(opened: OpenModel) -> None:
    import torch

    from toolchain.evaluate.harness_model import HarnessModel

    context, continuation = opened.runtime.tokenize("The quick"), opened.runtime.tokenize(" fox on")
    logits = torch.from_numpy(opened.runtime.logits([*context, *continuation]).copy()).double()
    logs = logits.log_softmax(-1)[len(context) - 1 : -1]
    wanted = logs[torch.arange(len(continuation)), torch.tensor(continuation)].sum().item()
    asked = requests("loglikelihood", [("The quick", " fox on")])
    assert HarnessModel(opened).loglikelihood(asked)[0][0] == pytest.approx(wanted, abs=1e-5)


def test_a_local_task_on_checkpoint_and_gguf(
    checkpoint: Path, tasks: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "gguf").mkdir()
    config = convert.Config(intermediate="f32", model_name="tiny")
    source = Artifact(checkpoint, "hf", {}, "input")
    gguf = convert.run(source, config, folder / "gguf").only(".gguf")
    found = [
        run_harness(
            str(path), ["tiny_choice"], task_path=tasks, options=OpenOptions(64, exact=True)
        )
        for path in (checkpoint, gguf)
    ]
    assert found[0]["samples"] == {"tiny_choice": len(QUESTIONS)}
    assert found[0]["tasks"] == found[1]["tasks"]
    assert 0 <= found[0]["tasks"]["tiny_choice"]["acc"] <= 1
    capsys.readouterr()
    options = ["--harness", "tiny_choice", "--task-path", str(tasks), "--limit", "2"]
    assert cli.main(["evaluate", str(checkpoint), *options]) == 0
    assert "asked: tiny_choice 2" in capsys.readouterr().out


def test_what_cannot_be_run(checkpoint: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*names: str) -> str:
        with pytest.raises(UserError) as fault:
            run_harness(str(checkpoint), names, task_path=tasks, options=OpenOptions(64))
        return str(fault.value)

    assert "did you mean 'tiny_choice'" in refused("tiny_chioce")
    assert "the data of tiny_absent do not load" in refused("tiny_absent")
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "edgeforge[harness]" in refused("tiny_choice")
