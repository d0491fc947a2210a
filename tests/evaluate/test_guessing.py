"""A perplexity that is a guess is called one; a model without a task goes on with text."""

from __future__ import annotations

from pathlib import Path

from tiny_models import tiny_llama

from toolchain.evaluate.continuations import continuations
from toolchain.evaluate.guessing import guessing_note, is_guessing
from toolchain.models import OpenOptions, open_model
from toolchain.report.chain import before_and_after


def test_what_is_near_a_guess() -> None:
    assert is_guessing(266, 512)
    assert not is_guessing(3.7, 512)
    assert not is_guessing(50, 4096)
    assert not is_guessing(None, 512)
    note = guessing_note(266, 512, "a.txt")
    assert note
    assert "a.txt" in note
    assert "evaluate.text" in note


def test_the_report_warns() -> None:
    manifest = {
        "quantization": "Q8_0",
        "gates": [],
        "evaluations": [
            {"measured": "input", "perplexity": 266.0, "tasks": {}, "parameters": 1,
             "weight_bytes": 4, "text": {"name": "a.txt", "vocab_size": 512}}
        ],
    }  # fmt: skip
    for language, warning in (("en", "tell little"), ("zh-CN", "参考意义不大")):
        assert warning in before_and_after(manifest, language)
    manifest["evaluations"][0]["perplexity"] = 4.0
    assert "tell little" not in before_and_after(manifest, "en")


def test_a_model_goes_on_with_documents(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "tiny", hidden=64, ffn=96)
    long = " ".join(f"word{n}" for n in range(40))
    with open_model(str(folder), OpenOptions(context_tokens=256)) as model:
        rows = continuations(model, ["too short", long, long])
    assert len(rows) == 2
    for row in rows:
        assert row["prompt"] == " ".join(f"word{n}" for n in range(12))
        assert row["reference"].startswith("word12 ")
