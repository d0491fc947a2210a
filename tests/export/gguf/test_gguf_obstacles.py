"""What llama.cpp computes otherwise is refused, capped or named; what it computes is proven."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_families import calibration, tiny_decoder

from common.errors import UserError
from runtimes.gguf_file import read_metadata
from toolchain.artifact import Artifact
from toolchain.evaluate import parity
from toolchain.export.gguf import convert
from toolchain.export.gguf.obstacles import named_for_tokens, require_computed
from toolchain.export.gguf.window import file_context, lost_window
from toolchain.stage import Input

MISTRAL = {"model_type": "mistral", "sliding_window": 24, "max_position_embeddings": 256}


def made(folder: Path, family: str, **settings: Any) -> tuple[Path, Artifact]:
    """A checkpoint with the family's own tokenizer, and its F32 GGUF."""
    checkpoint = tiny_decoder(folder / "checkpoint", family, tokenizer="own", **settings)
    out = folder / "gguf"
    out.mkdir()
    source = Artifact(checkpoint, "hf", {}, "input")
    return checkpoint, convert.run(source, convert.Config(intermediate="f32", model_name="m"), out)


def prove(folder: Path, checkpoint: Path, gguf: Artifact) -> dict[str, Any]:
    """Figures of the parity stage on texts of up to 96 tokens."""
    out = folder / "parity"
    out.mkdir()
    config = parity.Config(
        checkpoint=Input(digest="checkpoint", path=checkpoint),
        evaluation=Input.of_file(calibration(folder / "text.txt")),
        max_tokens=160,
        context_tokens=96,
    )
    found: dict[str, Any] = parity.run(gguf, config, out).measurements
    return found


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({}, 24),
        ({"sliding_window": None}, None),
        ({"sliding_window": 256}, None),
        ({"layer_types": ["full_attention"] * 2}, None),
        ({"layer_types": ["full_attention", "sliding_attention"]}, 24),
        ({"model_type": "gemma2"}, None),
        ({"model_type": "qwen2", "use_sliding_window": False}, None),
        ({"model_type": "qwen2"}, None),
        ({"model_type": "qwen2", "use_sliding_window": True}, 24),
    ],
)
def test_which_windows_are_lost(changes: dict[str, Any], window: int | None) -> None:
    config = {**MISTRAL, **changes}
    assert lost_window(config) == window
    assert file_context(config, 256) == (window or 256)


def test_a_lost_window_caps_the_files_context(tmp_path: Path) -> None:
    checkpoint, gguf = made(tmp_path, "mistral")
    assert read_metadata(gguf.only(".gguf"))["llama.context_length"] == 24
    assert prove(tmp_path, checkpoint, gguf)["logits"]["kld_mean"] < 1e-8


def test_turns_of_a_tokenizer_whose_model_is_gone_stay_tokens(tmp_path: Path) -> None:
    """Phi-3 as transformers saves it anew: no tokenizer.model, turns that strip white space."""
    checkpoint, gguf = made(tmp_path, "phi3")
    assert not (checkpoint / "tokenizer.model").exists()
    assert gguf.measurements["scores_from_merges"] is True
    assert "phi-3" in read_metadata(gguf.only(".gguf"))["general.name"]
    assert prove(tmp_path, checkpoint, gguf)["logits"]["kld_mean"] < 1e-8


def test_added_tokens_of_tokenizer_json_are_special_in_the_file(tmp_path: Path) -> None:
    """Gemma as transformers saves it anew: no added_tokens_decoder."""
    turn = "{{ '<start_of_turn>' + messages[0].content + '<end_of_turn>' }}"
    checkpoint, gguf = made(tmp_path, "gemma2", chat_template=turn)
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text("utf-8"))
    assert "added_tokens_decoder" not in settings
    gates = {g["name"]: g for g in prove(tmp_path, checkpoint, gguf)["gates"]}
    assert gates["chat prompt"]["passed"] and gates["logits mean KLD"]["figure"] < 1e-6


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gemma2", "query_pre_attn_scalar": 144, "head_dim": 128,
          "num_hidden_layers": 42}, "scales queries by the head size"),
        ({"model_type": "gpt2", "n_embd": 64, "n_inner": 96}, "n_inner is 96"),
        ({"model_type": "falcon", "hidden_size": 64, "ffn_hidden_size": 96}, "ffn_hidden_size"),
    ],
)  # fmt: skip
def test_what_the_converter_gets_wrong_is_refused(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        require_computed(config, tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gemma2", "query_pre_attn_scalar": 144, "head_dim": 128,
         "num_hidden_layers": 46},
        {"model_type": "gemma2", "query_pre_attn_scalar": 256, "head_dim": 256},
        {"model_type": "gpt2", "n_embd": 64, "n_inner": 256},
        {"model_type": "gpt2", "n_embd": 64, "n_inner": None},
        {"model_type": "llama"},
    ],
)  # fmt: skip
def test_what_it_gets_right_is_not(config: dict[str, Any], tmp_path: Path) -> None:
    require_computed(config, tmp_path)


def test_names_and_strips_of_phi3(tmp_path: Path) -> None:
    def write(*strips: bool) -> None:
        added = [
            {"content": f"<|{n}|>", "rstrip": s, "special": True} for n, s in enumerate(strips)
        ]
        (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))

    phi = {"model_type": "phi3"}
    write(True, True)
    assert named_for_tokens("mine", phi, tmp_path) == "mine (phi-3)"
    assert named_for_tokens("my-Phi-3", phi, tmp_path) == "my-Phi-3"
    write(False, False)
    assert named_for_tokens("my-phi3", phi, tmp_path) == "my-phi_3"
    require_computed(phi, tmp_path)
    write(True, False)
    with pytest.raises(UserError, match="one rule for all"):
        require_computed(phi, tmp_path)
    require_computed({"model_type": "llama"}, tmp_path)
