"""The training script end to end on a tiny scale, and the shipped demo model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from toolchain.data.home_control import generate, normalise

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "toolchain" / "assets" / "demo-model"
TINY = [
    "--examples", "600", "--test-examples", "12", "--vocabulary", "600", "--layers", "1",
    "--hidden", "128", "--feed-forward", "256", "--batch-tokens", "1024", "--threads", "1",
]  # fmt: skip


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module; it imports the file beside it."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.delitem(sys.modules, "train_demo_model", raising=False)
    import train_demo_model

    return train_demo_model


def load(folder: Path) -> tuple[Any, Any]:
    """The checkpoint in bfloat16 and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_tiny_run_learns_and_writes_a_checkpoint(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--out", str(tmp_path), *TINY]) == 0
    output = capsys.readouterr()
    facts = json.loads(output.out.splitlines()[-1])
    assert facts["last_loss"] < facts["first_loss"] and "min left" in output.err
    model, tokenizer = load(tmp_path)
    turns = [{"role": "system", "content": "Hi"}, {"role": "user", "content": "打开灯"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nHi<|im_end|>\n<|im_start|>user\n打开灯<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = tokenizer("Any text: naïve 日本 🙂")["input_ids"]
    assert tokenizer.decode(ids) == "Any text: naïve 日本 🙂"
    assert model.config.eos_token_id == tokenizer.eos_token_id == ids_of(tokenizer, "<|im_end|>")
    assert (tmp_path / "README.md").is_file() and (tmp_path / "edgeforge/task.jsonl").is_file()


def ids_of(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


def test_the_shipped_folder_is_complete_and_small() -> None:
    size = sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file())
    assert size <= 12_000_000
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"] and config["tie_word_embeddings"]
    assert config["hidden_size"] % 256 == 0 and config["intermediate_size"] % 256 == 0
    generation = json.loads((MODEL / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == config["eos_token_id"]


def test_the_companion_data_shares_no_sentence() -> None:
    parts = [
        read(MODEL / "edgeforge" / f"{n}.jsonl") for n in ("task", "calibration", "evaluation")
    ]
    words = [{normalise(line["messages"][0]["content"]) for line in part} for part in parts]
    assert [len(part) for part in words] == [500, 300, 300]
    assert len(set.union(*words)) == 1100
    assert all(line["messages"][0]["role"] == "user" and line["answer"] for line in parts[0])
    for line in parts[1] + parts[2]:
        assert [message["role"] for message in line["messages"]] == ["user", "assistant"]


@pytest.mark.slow
def test_the_shipped_model_answers_exactly(script: Any) -> None:
    model, tokenizer = load(MODEL)
    match = script.evaluate(model, tokenizer, list(generate("test", 200, 21)))
    assert match["all"] >= 97, match
