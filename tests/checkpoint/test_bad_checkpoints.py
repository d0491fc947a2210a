"""Every kind of bad checkpoint gives one error that names thing and mend, and writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import (
    FFN,
    HIDDEN,
    LAYERS,
    VOCAB,
    edit,
    snapshot,
    weights,
    write,
    write_checkpoint,
    write_tokenizer,
    write_weights,
)

from common.errors import UserError
from toolchain.checkpoint.intake import open_checkpoint

INDEX = "model.safetensors.index.json"
FIRST = "model-00001-of-00002.safetensors"
SECOND = "model-00002-of-00002.safetensors"


def truncate(path: Path, lost_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-lost_bytes])


def without(*names: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in weights().items() if name not in names}


def with_values(name: str, value: float, count: int, dtype: str = "float32") -> dict:
    tensors = weights(dtype=dtype)
    with np.errstate(over="ignore"):
        tensors[name].reshape(-1)[5 : 5 + count] = value
    return tensors


def config_only(folder: Path, **changes: object) -> None:
    write_checkpoint(folder, config=changes)


def no_config(folder: Path) -> None:
    write_checkpoint(folder)
    (folder / "config.json").unlink()


def adapter(folder: Path) -> None:
    folder.mkdir()
    write(folder / "adapter_config.json", {"base_model_name_or_path": "org/base"})


def gguf(folder: Path) -> None:
    folder.mkdir()
    (folder / "model.Q4_0.gguf").write_bytes(b"GGUF")


def parent(folder: Path) -> None:
    write_checkpoint(folder / "checkpoint-100")
    write_checkpoint(folder / "checkpoint-200")


def empty(folder: Path) -> None:
    folder.mkdir()


def a_file(folder: Path) -> None:
    folder.write_bytes(b"GGUF")


def broken_config(folder: Path) -> None:
    write_checkpoint(folder)
    truncate(folder / "config.json", 20)


def config_list(folder: Path) -> None:
    write_checkpoint(folder)
    write(folder / "config.json", [1])


def deep_config(folder: Path) -> None:
    write_checkpoint(folder)
    (folder / "config.json").write_text("[" * 200_000)


def missing_shard(folder: Path) -> None:
    write_checkpoint(folder, shards=2)
    (folder / SECOND).unlink()


def truncated_shard(folder: Path) -> None:
    write_checkpoint(folder, shards=2)
    truncate(folder / SECOND, 100)


def truncated_header(folder: Path) -> None:
    write_checkpoint(folder)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:50])


def trailing_bytes(folder: Path) -> None:
    write_checkpoint(folder)
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"xyz")


def empty_weights(folder: Path) -> None:
    write_checkpoint(folder)
    (folder / "model.safetensors").write_bytes(b"")


def lfs_pointer(folder: Path) -> None:
    write_checkpoint(folder)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n"
    (folder / "model.safetensors").write_bytes(pointer)


def index_outside(folder: Path) -> None:
    write_checkpoint(folder, shards=2)
    write(folder / INDEX, {"weight_map": {"model.norm.weight": "../other.safetensors"}})


def broken_index(folder: Path) -> None:
    write_checkpoint(folder, shards=2)
    write(folder / INDEX, {"weight_map": []})


def index_of_other_revision(folder: Path) -> None:
    write_checkpoint(folder, shards=2)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.layers.0.self_attn.q_norm.weight"] = FIRST
    write(folder / INDEX, index)


def no_index(folder: Path) -> None:
    write_checkpoint(folder, shards=2)
    (folder / INDEX).unlink()


def two_sets(folder: Path) -> None:
    write_checkpoint(folder, shards=2)
    write_weights(folder, weights())


def pickle_only(folder: Path) -> None:
    write_checkpoint(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_weights(folder: Path) -> None:
    write_checkpoint(folder)
    (folder / "model.safetensors").unlink()


def odd_name(folder: Path) -> None:
    write_checkpoint(folder)
    (folder / "model.safetensors").rename(folder / "weights.safetensors")


def no_tokenizer(folder: Path) -> None:
    write_checkpoint(folder)
    (folder / "tokenizer.json").unlink()


def broken_tokenizer(folder: Path) -> None:
    write_checkpoint(folder)
    truncate(folder / "tokenizer.json", 5)


def broken_sentencepiece(folder: Path) -> None:
    no_tokenizer(folder)
    (folder / "tokenizer.model").write_bytes(b"\x0a\xff\xff\xff\xff\x0fabc")


def tokenizer_needs_code(folder: Path) -> None:
    write_checkpoint(folder, config={"model_type": "strange"})
    auto_map = {"AutoTokenizer": ["tok.StrangeTokenizer", None]}
    edit(folder / "tokenizer_config.json", tokenizer_class="StrangeTokenizer", auto_map=auto_map)


def bad_tensors(tensors: dict[str, np.ndarray]) -> Callable[[Path], None]:
    return lambda folder: write_checkpoint(folder, tensors=tensors) and None


def wide(name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {**weights(), name: np.zeros(shape, dtype="float32")}


Q = "model.layers.1.self_attn.q_proj.weight"
CASES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "missing folder": (lambda folder: None, ["does not exist", "model="]),
    "no config": (no_config, ["no config.json", "fetch config.json"]),
    "adapter": (adapter, ["adapter of org/base", "merge"]),
    "gguf folder": (gguf, ["model.Q4_0.gguf", "Hugging Face checkpoint"]),
    "parent folder": (parent, ["checkpoint-100, checkpoint-200", "give one of them"]),
    "empty folder": (empty, ["the folder is empty", "give a folder"]),
    "a file": (a_file, ["is a file", "give a folder"]),
    "broken config": (broken_config, ["config.json cannot be read as JSON", "fetch"]),
    "config is a list": (config_list, ["config.json is not a JSON object", "fetch"]),
    "config nested deeply": (deep_config, ["config.json", "nested too deeply"]),
    "unsupported architecture": (
        lambda f: config_only(f, architectures=["LlamaForCasualLM"]),
        ["LlamaForCasualLM is not supported", "did you mean LlamaForCausalLM"],
    ),
    "no architecture": (lambda f: config_only(f, architectures=None), ["names no architecture"]),
    "missing shard": (missing_shard, [f"shard {SECOND} is missing", "fetch the missing file"]),
    "truncated shard": (truncated_shard, [f"{SECOND} is a truncated shard:", " of ", "bytes"]),
    "truncated header": (truncated_header, ["truncated shard", "50 of at least", "fetch"]),
    "trailing bytes": (trailing_bytes, ["3 bytes after its last tensor", "fetch"]),
    "empty weights": (empty_weights, ["model.safetensors is empty", "fetch"]),
    "lfs pointer": (lfs_pointer, ["Git LFS pointer", "git lfs pull"]),
    "index points outside": (index_outside, ["../other.safetensors", "outside the checkpoint"]),
    "broken index": (broken_index, ["has no weight_map", "fetch the index again"]),
    "index of another revision": (
        index_of_other_revision,
        ["its shards lack: model.layers.0.self_attn.q_norm.weight", "of one revision"],
    ),
    "no index": (no_index, [f"{INDEX} is missing for {FIRST}", "fetch"]),
    "two sets of weights": (two_sets, ["engines would read different weights", "remove"]),
    "pickle only": (pickle_only, ["pytorch_model.bin", "--allow-pickle"]),
    "no weights": (no_weights, ["no weights", "fetch the checkpoint's safetensors"]),
    "odd weight name": (odd_name, ["weights.safetensors", "name it model.safetensors"]),
    "no tokenizer": (no_tokenizer, ["no tokenizer", "copy the tokenizer's files"]),
    "broken tokenizer": (broken_tokenizer, ["tokenizer.json cannot be read as JSON"]),
    "broken sentencepiece": (broken_sentencepiece, ["is no SentencePiece model", "fetch"]),
    "tokenizer larger than embedding": (
        lambda f: write_checkpoint(f, tokenizer_tokens=VOCAB + 1),
        [f"ids up to {VOCAB}, the embedding has {VOCAB} rows", "resize"],
    ),
    "vocab_size contradicts embedding": (
        lambda f: config_only(f, vocab_size=VOCAB + 16),
        [f"vocab_size {VOCAB + 16}, model.embed_tokens.weight has {VOCAB} rows"],
    ),
    "hidden size contradicts weights": (
        bad_tensors(wide("model.embed_tokens.weight", (VOCAB, HIDDEN * 2))),
        [f"hidden size {HIDDEN}, model.embed_tokens.weight has width {HIDDEN * 2}"],
    ),
    "ffn width contradicts weights": (
        lambda f: config_only(f, intermediate_size=FFN * 2),
        [f"gate_proj.weight is {FFN}×{HIDDEN}, not {FFN * 2}×{HIDDEN} (and 5 more tensors)"],
    ),
    "heads contradict weights": (
        lambda f: config_only(f, num_key_value_heads=4),
        [f"k_proj.weight is 16×{HIDDEN}, not 32×{HIDDEN}"],
    ),
    "lost layer": (
        bad_tensors(weights(layers=1)),
        ["says 2 layers", "lack 1 of them: model.layers.N for N = 1"],
    ),
    "too many layers": (bad_tensors(weights(layers=3)), ["says 2 layers, the weights have 3"]),
    "lost tensor": (bad_tensors(without(Q)), [Q, "missing", "of one revision"]),
    "lost norm": (
        bad_tensors(without("model.layers.1.input_layernorm.weight")),
        ["missing: model.layers.1.input_layernorm.weight"],
    ),
    "lost embedding": (
        bad_tensors(without("model.embed_tokens.weight")),
        ["no token embedding"],
    ),
    "lost head": (
        lambda f: config_only(f, tie_word_embeddings=False),
        ["lm_head.weight is missing", "tie_word_embeddings"],
    ),
    "head lost, tying unsaid": (
        lambda f: config_only(f, tie_word_embeddings=None),
        ["lm_head.weight is missing", "tie_word_embeddings"],
    ),
    "zero layers": (
        lambda f: write_checkpoint(f, config={"num_hidden_layers": 0}, tensors=weights(0)),
        ["says 0 layers"],
    ),
    "empty tensor": (bad_tensors(wide("model.norm.weight", (0,))), ["model.norm.weight is empty"]),
    "no tensors": (bad_tensors({}), ["hold no tensors"]),
    "eos outside": (
        lambda f: edit(write_checkpoint(f) / "generation_config.json", eos_token_id=[1, 4711]),
        ["eos_token_id 4711 is outside", "correct eos_token_id"],
    ),
    "gptq": (
        lambda f: config_only(f, quantization_config={"quant_method": "gptq", "bits": 4}),
        ["already quantized (GPTQ)", "give the unquantized checkpoint"],
    ),
    "awq": (
        lambda f: config_only(f, quantization_config={"quant_method": "awq"}),
        ["already quantized (AWQ)"],
    ),
    "bitsandbytes": (
        lambda f: config_only(f, quantization_config={"quant_method": "bitsandbytes"}),
        ["already quantized (bitsandbytes)", "dequantize"],
    ),
    "packed integers": (
        bad_tensors({**weights(), Q: np.zeros((HIDDEN, HIDDEN), dtype="int8")}),
        [f"{Q} holds integers (I8)", "quantized"],
    ),
    "custom model code": (
        lambda f: config_only(
            f, model_type="strange", auto_map={"AutoModelForCausalLM": "modeling.Strange"}
        ),
        ["needs its own code (modeling.Strange)", "--trust-remote-code"],
    ),
    "custom tokenizer code": (tokenizer_needs_code, ["StrangeTokenizer", "--trust-remote-code"]),
    "NaN": (bad_tensors(with_values(Q, np.nan, 3)), [f"{Q} (3 NaN)", "fetch the weights again"]),
    "Inf": (bad_tensors(with_values(Q, -np.inf, 2)), [f"{Q} (2 Inf)"]),
    "NaN in F16": (bad_tensors(with_values(Q, np.nan, 7, "float16")), [f"{Q} (7 NaN)"]),
    "overflow in F16": (bad_tensors(with_values(Q, 1e6, 4, "float16")), [f"{Q} (4 Inf)"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_checkpoint_is_refused(case: str, tmp_path: Path) -> None:
    break_it, expected = CASES[case]
    folder = tmp_path / "model"
    break_it(folder)
    before = snapshot(tmp_path)
    with pytest.raises(UserError) as caught:
        open_checkpoint(folder, tmp_path / "build" / "model" / ".stages")
    message = str(caught.value)
    assert str(folder) in message
    for part in expected:
        assert part in message
    assert not caught.value.details, "one fault must give one message, not a list"
    assert snapshot(tmp_path) == before


def test_good_checkpoint_passes(tmp_path: Path) -> None:
    artifact, info = open_checkpoint(write_checkpoint(tmp_path / "model"), None)
    assert artifact.format == "hf"
    assert info.faults == ()


def test_padded_embedding_passes(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tokenizer_tokens=VOCAB - 5)
    assert open_checkpoint(folder, None)[1].tokenizer_ids == VOCAB - 5


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    folder = write_checkpoint(
        tmp_path / "model",
        config={"architectures": ["NoSuchModel"], "vocab_size": VOCAB + 1},
        tensors=without(Q),
    )
    write_tokenizer(folder, VOCAB + 9)
    with pytest.raises(UserError) as caught:
        open_checkpoint(folder, None)
    assert "has 4 faults" in caught.value.problem
    details = "\n".join(caught.value.details)
    for part in ("NoSuchModel", f"vocab_size {VOCAB + 1}", f"ids up to {VOCAB + 8}", Q):
        assert part in details


def test_code_that_transformers_has_itself_needs_no_trust(tmp_path: Path) -> None:
    auto_map = {"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"}
    folder = write_checkpoint(tmp_path / "model", config={"auto_map": auto_map})
    open_checkpoint(folder, None)


def test_trust_remote_code_lets_custom_code_pass(tmp_path: Path) -> None:
    changes = {"model_type": "strange", "auto_map": {"AutoModelForCausalLM": "modeling.Strange"}}
    folder = write_checkpoint(tmp_path / "model", config=changes)
    (folder / "modeling.py").write_text("raise SystemExit('must not be run here')")
    artifact, _ = open_checkpoint(folder, None, trust_remote_code=True)
    assert "modeling.py" in artifact.files


def test_layer_count_is_that_of_the_config(tmp_path: Path) -> None:
    folder = write_checkpoint(
        tmp_path / "model", config={"num_hidden_layers": 5}, tensors=weights(5), shards=3
    )
    _, info = open_checkpoint(folder, None)
    assert len(info.weight_files) == 3
    assert len(info.tensors) == 2 + 5 * (len(weights()) - 2) // LAYERS
