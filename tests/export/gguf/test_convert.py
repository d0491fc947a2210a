"""Conversion: our stage against the official converter run directly, and against the checkpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from tiny_models import SENTENCES, tiny_llama

from common.errors import Lack, UserError
from runtimes.gguf_file import read_metadata
from runtimes.vendored import llama_cpp_folder
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.export.gguf import convert, converter_errors
from toolchain.export.gguf.convert_driver import merge_scores

ASSETS = Path(__file__).resolve().parents[4] / "shared" / "assets"


def _hf(folder: Path) -> Artifact:
    return Artifact(folder, "hf", {"config.json": "0"}, "inspect")


def _converted(checkpoint: Path, out: Path, **options: str) -> Artifact:
    out.mkdir(parents=True)
    config = convert.Config(model_name="tiny", **options)  # type: ignore[arg-type]
    return convert.run(_hf(checkpoint), config, out)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("hf") / "tiny", layers=1)


@pytest.fixture(scope="module")
def converted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return _converted(checkpoint, tmp_path_factory.mktemp("gguf") / "out")


def test_artifact_holds_the_file_alone_and_says_how_it_was_made(converted: Artifact) -> None:
    assert set(converted.files) == {"model-F32.gguf"}
    assert artifacts.load(converted.path).digest == converted.digest
    assert not converted.damaged_files()
    measured = converted.measurements
    assert measured["pretokenizer"] == {"name": "qwen2", "how": "structure"}
    assert measured["size_bytes"] == converted.only(".gguf").stat().st_size
    # Importing torch alone takes more than 100 MB.
    assert measured["wall_sec"] > 0 and measured["peak_rss_bytes"] > 100_000_000


def test_metadata_and_chat_template_come_from_the_checkpoint(
    checkpoint: Path, converted: Artifact
) -> None:
    metadata = read_metadata(converted.only(".gguf"))
    assert metadata["general.name"] == "tiny"
    assert metadata["llama.block_count"] == 1
    assert metadata["tokenizer.ggml.pre"] == "qwen2"
    assert metadata["tokenizer.chat_template"] == (checkpoint / "chat_template.jinja").read_text()


def test_weights_are_the_checkpoint_s(checkpoint: Path, converted: Artifact) -> None:
    import gguf
    from safetensors.numpy import load_file

    theirs = load_file(checkpoint / "model.safetensors")
    ours = {str(t.name): t.data for t in gguf.GGUFReader(converted.only(".gguf")).tensors}
    for name, source in {
        "token_embd.weight": "model.embed_tokens.weight",
        "output.weight": "lm_head.weight",
        "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
        "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
    }.items():
        assert numpy.array_equal(ours[name], theirs[source]), name


def test_tokens_equal_the_hugging_face_tokenizer_s(checkpoint: Path, converted: Artifact) -> None:
    import llama_cpp
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    llama = llama_cpp.Llama(str(converted.only(".gguf")), vocab_only=True, verbose=False)
    try:
        for text in (*SENTENCES, "<|im_start|>user\nhello<|im_end|>"):
            assert llama.tokenize(text.encode(), special=True) == tokenizer.encode(text)
    finally:
        llama.close()


def test_auto_means_f32_up_to_two_gigabytes() -> None:
    assert convert.chosen_intermediate("auto", 500_000_000) == "f32"
    assert convert.chosen_intermediate("auto", 500_000_001) == "f16"
    assert convert.chosen_intermediate("bf16", 1) == "bf16"


def test_unknown_architecture_is_one_clear_error(checkpoint: Path, tmp_path: Path) -> None:
    strange = shutil.copytree(checkpoint, tmp_path / "strange")
    config = json.loads((strange / "config.json").read_text())
    config["architectures"] = ["NewestForCausalLM"]
    (strange / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="architecture NewestForCausalLM is not known"):
        _converted(strange, tmp_path / "out")


def test_unknown_tokenizer_is_explained_by_its_structure(checkpoint: Path, tmp_path: Path) -> None:
    strange = shutil.copytree(checkpoint, tmp_path / "strange")
    data = json.loads((strange / "tokenizer.json").read_text())
    data["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[a-z]+"
    (strange / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"splits text in a way .* \[a-z\]\+"):
        _converted(strange, tmp_path / "out")


def test_too_little_disk_is_noticed_before_work(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="not enough disk"):
        _converted(checkpoint, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


def test_other_failures_carry_the_converter_s_last_words() -> None:
    log = 'INFO:hf-to-gguf:Loading\nTraceback (most recent call last):\n  File "x.py", line 1\n'
    error = converter_errors.explain(Path("m"), 1, log + "KeyError: 'hidden_size'\n", None)
    assert str(error) == "llama.cpp's converter failed on m: KeyError: 'hidden_size'"
    assert "signal 11" in str(converter_errors.explain(Path("m"), -11, log, None))


def test_a_killed_converter_is_no_verdict_on_the_checkpoint() -> None:
    told = converter_errors.explain(Path("m"), -9, "", None)
    assert isinstance(told, Lack) and "memory ran out" in told.problem


def test_scores_follow_the_order_of_merges() -> None:
    vocab = {"a": 0, "b": 1, "ab": 2, "abb": 3, "<s>": 4}
    for merges in (["a b", "ab b"], [["a", "b"], ["ab", "b"]]):
        scores = merge_scores({"vocab": vocab, "merges": merges})
        assert scores == {2: 0.0, 3: -1.0, 0: -2.0, 1: -2.0}


@pytest.mark.real_model
@pytest.mark.skipif(not ASSETS.is_dir(), reason="../shared/assets is absent")
def test_a_known_kind_of_checkpoint_equals_the_official_converter_s_file(tmp_path: Path) -> None:
    source = ASSETS / "models" / "stories260K-hf"
    theirs = tmp_path / "theirs.gguf"
    script = llama_cpp_folder() / "convert_hf_to_gguf.py"
    command = [sys.executable, str(script), str(source), "--outtype", "f16"]
    command += ["--outfile", str(theirs), "--model-name", "tiny"]
    subprocess.run(command, check=True, capture_output=True)
    ours = _converted(source, tmp_path / "ours", intermediate="f16")
    assert ours.only(".gguf").read_bytes() == theirs.read_bytes()


@pytest.mark.real_model
@pytest.mark.skipif(not ASSETS.is_dir(), reason="../shared/assets is absent")
def test_sentencepiece_tokens_survive_without_tokenizer_model(tmp_path: Path) -> None:
    """Fine-tuning leaves only tokenizer.json: the scores come back from the order of merges."""
    import llama_cpp
    from transformers import AutoTokenizer

    source = tmp_path / "stories"
    shutil.copytree(ASSETS / "models" / "stories260K-hf", source)
    (source / "tokenizer.model").unlink()
    made = _converted(source, tmp_path / "out")
    assert made.measurements["scores_from_merges"]
    tokenizer = AutoTokenizer.from_pretrained(source)
    text = (ASSETS / "text" / "tinystories_train.txt").read_text(encoding="utf-8")[:20_000]
    llama = llama_cpp.Llama(str(made.only(".gguf")), vocab_only=True, verbose=False)
    try:
        for line in filter(str.strip, text.splitlines()):
            theirs = tokenizer.encode(line, add_special_tokens=False)
            assert llama.tokenize(line.encode(), add_bos=False) == theirs
    finally:
        llama.close()
