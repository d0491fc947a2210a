"""`edgeforge plan`: exact sizes from llama.cpp's own quantizer, fallbacks, and what fits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_llama

from toolchain.checkpoint.inspect import inspect
from toolchain.cli import main
from toolchain.gguf_names import gguf_architecture, gguf_tensors
from toolchain.plan import model_shape, type_sizes

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT.parent / "shared" / "assets" / "models"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tiny_llama(tmp_path_factory.mktemp("m") / "tiny", ffn=768, tied=True)
    return folder


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["plan", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def _q8_0_bytes(checkpoint: Path) -> int:
    """By hand: 34 bytes for 32 weights of a matrix, 4 bytes for each weight of a norm."""
    tensors = inspect(checkpoint).tensors
    matrices = sum(t.elements for t in tensors if len(t.shape) == 2)
    norms = sum(t.elements for t in tensors if len(t.shape) == 1)
    return matrices * 34 // 32 + norms * 4


def test_sizes_of_every_candidate(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "--target", "laptop", "--model", str(checkpoint))
    assert found["order"] == ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"]
    sizes = {c["size"]["quantization"]: c["size"] for c in found["candidates"]}
    assert sizes["Q8_0"]["weights_bytes"] == _q8_0_bytes(checkpoint)
    assert sizes["Q8_0"]["bytes_read_per_token"] == sizes["Q8_0"]["weights_bytes"]
    assert sizes["Q4_K_M"]["weights_bytes"] < sizes["Q5_K_M"]["weights_bytes"]
    assert all(not size["fallbacks"] for size in sizes.values())
    assert found["context_tokens"] == 512
    assert found["shape"]["kv_heads"] == 2


def test_the_table_says_what_auto_does_and_writes_nothing(
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(checkpoint.rglob("*"))
    assert main(["plan", "--target", "jetson", "--model", str(checkpoint)]) == 0
    out = capsys.readouterr().out
    assert "target   jetson-orin-nano" in out
    assert "auto tries Q4_K_M first, then Q5_K_M, Q6_K, Q8_0" in out
    assert "convert → imatrix → quantize → parity → quality → bundle → smoke" in out
    assert list(tmp_path.iterdir()) == []
    assert sorted(checkpoint.rglob("*")) == before


def test_one_type_asked_for_is_the_only_candidate(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _json(
        capsys, "--target", "laptop", "--model", str(checkpoint), "--quantization", "iq4_xs"
    )
    assert found["order"] == ["IQ4_XS"]


def test_widths_that_are_no_whole_blocks_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_llama(tmp_path / "odd", hidden=192, heads=6, kv_heads=3, ffn=360)
    assert main(["plan", "--target", "jetson", "--model", str(model)]) == 0
    out = capsys.readouterr().out
    # 192 and 360 are no multiples of 256; 360 is no multiple of 32 either.
    assert "blk.0.ffn_down.weight Q4_K → F16" in out or "blk.0.ffn_down.weight Q6_K → F16" in out
    assert "warning: Q8_0: 2 tensors fall back" in out


def test_nothing_that_fits_is_an_error_that_says_so(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "targets" / "laptop.yaml").read_text(encoding="utf-8")
    tiny = tmp_path / "tiny-board.yaml"
    tiny.write_text(
        text.replace("name: laptop", "name: tiny-board").replace(
            "usable_gib: 9", "usable_gib: .001"
        ),
        encoding="utf-8",
    )
    assert main(["plan", "--target", str(tiny), "--model", str(checkpoint)]) == 2
    captured = capsys.readouterr()
    assert "passed over: Q8_0 needs 0.01 GiB of memory, 0.001 usable" in captured.out
    assert "does not fit tiny-board" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "jetsn"], "did you mean 'jetson'"),
        (["--target", "laptop", "--quantization", "Q4_K_X"], "unknown quantization 'Q4_K_X'"),
        (["--target", "laptop", "--model", "/no/such/folder"], "does not exist"),
    ],
)
def test_bad_input_is_one_message(
    checkpoint: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = [] if "--model" in arguments else ["--model", str(checkpoint)]
    assert main(["plan", *arguments, *model]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("architecture", "gguf_name"),
    [
        ("LlamaForCausalLM", "llama"),
        ("MistralForCausalLM", "llama"),
        ("Qwen3MoeForCausalLM", "qwen3moe"),
        ("Gemma3ForConditionalGeneration", "gemma3"),
        ("GPT2LMHeadModel", "gpt2"),
        ("SmolLM3ForCausalLM", "smollm3"),
    ],
)
def test_architectures_get_the_converters_name(architecture: str, gguf_name: str) -> None:
    assert gguf_architecture(architecture) == gguf_name


def test_experts_are_stacked_and_read_by_share(tmp_path: Path) -> None:
    """A Qwen3-MoE of 4 experts, 2 used: a token reads half of the experts' bytes."""
    from tiny_models import tiny_tokenizer
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        hidden_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=512,
        moe_intermediate_size=256,
        num_experts=4,
        num_experts_per_tok=2,
        vocab_size=tiny_tokenizer(tmp_path, 320),
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path)
    info = inspect(tmp_path)
    tensors, unnamed = gguf_tensors(info, "qwen3moe", 2)
    assert unnamed == []
    assert dict(tensors)["blk.1.ffn_down_exps.weight"] == (4, 256, 256)
    size = type_sizes(info, ["Q8_0"])[0]
    experts = 2 * 3 * 4 * 256 * 256 * 34 // 32
    assert size.weights_bytes - size.bytes_read_per_token == experts // 2
    assert model_shape(info).key_dim == 64


@pytest.mark.real_model
@pytest.mark.skipif(not ASSETS.is_dir(), reason="../shared/assets is absent")
@pytest.mark.parametrize("quantization", ["Q4_0", "Q4_K_M", "Q5_K_M", "Q8_0"])
def test_sizes_are_those_of_the_real_file(
    quantization: str, stories_f16: Path, tmp_path: Path
) -> None:
    """Converted by the official converter and quantized by llama.cpp: equal to the byte."""
    import gguf

    from runtimes.quantizer import quantize

    target = tmp_path / "q.gguf"
    quantize(stories_f16, target, quantization)
    real = sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(target).tensors)
    size = type_sizes(inspect(ASSETS / "stories260K-hf"), [quantization], with_imatrix=False)[0]
    assert size.weights_bytes == real


@pytest.fixture(scope="module")
def stories_f16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stories260K as an F16 GGUF, by the vendored converter."""
    from runtimes.vendored import llama_cpp_folder

    folder = llama_cpp_folder()
    out = tmp_path_factory.mktemp("gguf") / "f16.gguf"
    script = str(folder / "convert_hf_to_gguf.py")
    subprocess.run(
        [sys.executable, script, str(ASSETS / "stories260K-hf"), "--outtype", "f16",
         "--outfile", str(out)],
        env={"PYTHONPATH": str(folder / "gguf-py"), "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
    )  # fmt: skip
    return out


def test_a_student_that_will_be_made_is_planned(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("stages: [distill, export]\ndata: {own: true}\n"
                      "distill: {student: {layers: 1}}\n")  # fmt: skip
    words = ("--target", "laptop", "--model", str(checkpoint), "--quantization", "Q8_0")
    whole, student = (
        _json(capsys, *words, *more) for more in ((), ("--recipe", str(recipe)))
    )  # fmt: skip
    assert student["shape"]["layers"] == 1 and whole["shape"]["layers"] == 2
