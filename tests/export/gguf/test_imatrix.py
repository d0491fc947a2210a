"""The importance matrix against sums computed by hand, and against llama-imatrix where it is."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy
import pytest
import torch
from tiny_models import SENTENCES, tiny_llama

from common.errors import UserError
from runtimes.imatrix_file import read_imatrix
from toolchain.artifact import Artifact
from toolchain.data.text import SEPARATOR, read_documents
from toolchain.export.gguf import convert, imatrix
from toolchain.export.gguf.input_sums import watch
from toolchain.stage import Input


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("hf") / "tiny", hidden=64, ffn=96)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(f"\n{SEPARATOR}\n".join(SENTENCES * 3), encoding="utf-8")
    return path


def _run(checkpoint: Path, out: Path, calibration: Path, **options: int) -> Artifact:
    out.mkdir()
    config = imatrix.Config(calibration=Input.of_file(calibration), **options)
    return imatrix.run(Artifact(checkpoint, "hf", {"config.json": "0"}, "inspect"), config, out)


def test_values_are_mean_squared_inputs(
    checkpoint: Path, calibration: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = _run(checkpoint, tmp_path / "out", calibration, max_tokens=256, context_tokens=64)
    found = read_imatrix(made.only(".gguf"))
    values = found.importances()
    names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    assert set(values) == {f"blk.{i}.{name}.weight" for i in range(2) for name in names}
    assert (found.chunk_count, found.chunk_size, tuple(found.datasets)) == (
        4,
        64,
        ("calibration.txt",),
    )

    import random

    documents = read_documents(calibration)
    random.Random(0).shuffle(documents)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    chunks = imatrix.token_chunks(tokenizer, documents, 256, 64)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    layer = model.model.layers[0]
    with torch.no_grad():
        rows = layer.input_layernorm(model.model.embed_tokens(torch.tensor(chunks)))
    expected = rows.reshape(-1, 64).square().mean(0).numpy()
    assert sum(map(len, chunks)) == 256 == made.measurements["tokens"]
    for name in names[:3]:
        assert numpy.allclose(values[f"blk.0.{name}.weight"], expected, rtol=1e-5), name


def test_same_config_gives_the_same_file(
    checkpoint: Path, calibration: Path, tmp_path: Path
) -> None:
    first = _run(checkpoint, tmp_path / "a", calibration, max_tokens=128, context_tokens=64)
    again = _run(checkpoint, tmp_path / "b", calibration, max_tokens=128, context_tokens=64)
    other = _run(checkpoint, tmp_path / "c", calibration, max_tokens=128, context_tokens=64, seed=1)
    assert first.digest == again.digest != other.digest


def test_documents_begin_with_bos_once() -> None:
    class Tokenizer:  # the two things that chunking asks of one
        bos_token = "<s>"

        def __call__(
            self, text: str, *, add_special_tokens: bool, verbose: bool
        ) -> dict[str, list[int]]:
            bos = [1] * (add_special_tokens or text.startswith("<s>"))
            return {"input_ids": bos + [5] * len(text.split())}

    documents = ["word " * 40, "<s> " + "word " * 40]
    chunks = imatrix.token_chunks(Tokenizer(), documents, 1000, 30)
    assert [token for chunk in chunks for token in chunk].count(1) == 2


def test_text_and_memory_are_checked(checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("hello", encoding="utf-8")
    with pytest.raises(UserError, match="at least 64 are needed"):
        _run(checkpoint, tmp_path / "a", text)
    text.write_text(f" \n{SEPARATOR}\n\n", encoding="utf-8")
    with pytest.raises(UserError, match="has no text"):
        _run(checkpoint, tmp_path / "b", text)
    text.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        _run(checkpoint, tmp_path / "c", text)


def test_broken_weights_are_named(calibration: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tiny_llama(tmp_path / "broken", hidden=64, ffn=96)
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.self_attn.v_proj.weight"][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"not finite \(inputs of blk\.1\.attn_output"):
        _run(broken, tmp_path / "out", calibration, max_tokens=128)


def test_experts_get_their_own_sums() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
    )
    model = MixtralForCausalLM(config).eval()
    found = watch(
        model, lambda name: "blk.0.attn_q.weight" if "q_proj" in name else "output.weight"
    )
    caught: list[tuple[torch.Tensor, torch.Tensor]] = []
    block = model.model.layers[0].mlp.experts
    block.register_forward_pre_hook(lambda _, inputs: caught.append((inputs[0], inputs[1])))
    with torch.no_grad():
        model(torch.arange(40)[None])
    hidden, chosen = caught[0]
    up = found.counts["blk.0.ffn_up_exps.weight"]
    assert up.sum() == 40 * 2
    assert up.tolist() == [float((chosen == expert).sum()) for expert in range(4)]
    for expert in range(4):
        rows = hidden[(chosen == expert).any(-1)]
        gate, value = (rows @ block.gate_up_proj[expert].T).chunk(2, -1)
        inner = torch.nn.functional.silu(gate) * value
        sums = {name: found.sums[f"blk.0.{name}.weight"][expert].float() for name in
                ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")}  # fmt: skip
        assert torch.allclose(sums["ffn_gate_exps"], rows.square().sum(0), rtol=1e-4)
        assert torch.equal(sums["ffn_gate_exps"], sums["ffn_up_exps"])
        assert torch.allclose(sums["ffn_down_exps"], inner.square().sum(0), rtol=1e-4, atol=1e-12)


def test_agrees_with_llama_imatrix(checkpoint: Path, tmp_path: Path) -> None:
    tool = os.environ.get("EDGEFORGE_LLAMA_IMATRIX") or shutil.which("llama-imatrix")
    if not tool:
        pytest.skip("llama-imatrix is neither on PATH nor named by EDGEFORGE_LLAMA_IMATRIX")
    text = tmp_path / "text.txt"
    text.write_text("\n".join(SENTENCES * 4), encoding="utf-8")
    ours = _run(checkpoint, tmp_path / "ours", text, max_tokens=256, context_tokens=128)
    (tmp_path / "gguf").mkdir()
    source = Artifact(checkpoint, "hf", {"config.json": "0"}, "inspect")
    gguf = convert.run(source, convert.Config(model_name="t"), tmp_path / "gguf").only(".gguf")
    command = [tool, "-m", str(gguf), "-f", str(text), "-o", str(tmp_path / "theirs.gguf")]
    command += ["-c", "128", "-b", "128", "--chunks", "2", "--no-ppl", "-t", "1"]
    subprocess.run(command, check=True, capture_output=True)
    mine, theirs = (
        read_imatrix(path).importances() for path in (ours.only(".gguf"), tmp_path / "theirs.gguf")
    )
    assert mine.keys() == theirs.keys()
    for name, values in mine.items():
        assert numpy.corrcoef(values, theirs[name])[0, 1] > 0.9999, name
