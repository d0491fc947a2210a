"""ONNX bundles from the real command line: a decoder and a classifier, used from the bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import edgeforge
from tiny_models import tiny_bert, tiny_llama

RECIPE = """\
export: {calibration_tokens: 512}
evaluate: {max_tokens: 256, context_tokens: 64}
quality: {max_kld: 5.0}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    (folder / "small.yaml").write_text(RECIPE)
    return folder


def build(folder: Path, model: Path, *more: object) -> Path:
    """The bundle of a model for the server."""
    given = ("--model", model, "--recipe", folder / "small.yaml", "--out", folder / "build")
    done = edgeforge("build", "--target", "cpu-server", *given, *more)
    assert done.returncode == 0, done.stderr
    return folder / "build" / model.name / "cpu-server"


@pytest.fixture(scope="module")
def decoder(folder: Path) -> Path:
    model = tiny_llama(folder / "llama", hidden=64, heads=4, kv_heads=2, ffn=96)
    return build(folder, model, "--quantization", "int8-mixed")


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Path:
    model = tiny_bert(folder / "bert")
    rows = [
        {"text": f"{word} number {n}", "label": label}
        for n in range(40)
        for word, label in (("a fine lamp", 1), ("a broken fan", 0))  # positive, negative
    ]
    companion = model / "edgeforge"
    companion.mkdir()
    (companion / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return build(folder, model, "--quantization", "int8-block")


def test_a_decoders_bundle_proves_itself(decoder: Path) -> None:
    manifest = json.loads((decoder / "manifest.json").read_text("utf-8"))
    assert (manifest["runtime"], manifest["kind"]) == ("onnxruntime", "decoder")
    assert manifest["model_file"]["name"] == "model/model.onnx"
    gates = {gate["name"]: gate for gate in manifest["gates"]}
    assert gates["logits mean KLD"]["passed"] and gates["greedy answers"]["passed"]
    assert manifest["tried"][0]["reason"] == "asked for"
    smoke = json.loads((decoder / "log" / "smoke.json").read_text("utf-8"))
    assert smoke["verdict"] == "passed" and smoke["engine"]["name"] == "onnxruntime"


def test_a_decoders_bundle_answers_and_compares(decoder: Path, folder: Path) -> None:
    done = edgeforge("generate", decoder, "lamp on", "--max-tokens", 5, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["engine"] == "onnxruntime"
    done = edgeforge(
        *("evaluate", decoder, "--against", folder / "llama", "--text-tokens", 200, "--json")
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["comparison"]["kld_mean"] < 0.1


def test_a_classifiers_bundle_labels_texts(classifier: Path) -> None:
    done = edgeforge("classify", classifier, "a fine lamp", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["texts"][0]["label"] in ("negative", "positive")
    rows = [json.loads(line) for line in (classifier / "prompts.jsonl").open(encoding="utf-8")]
    assert {row["reference"] for row in rows} == {"negative", "positive"}
    manifest = json.loads((classifier / "manifest.json").read_text("utf-8"))
    assert manifest["kind"] == "encoder"
    assert any(gate["name"] == "accuracy lost" for gate in manifest["gates"])
    assert "edgeforge classify" in (classifier / "report.md").read_text("utf-8")


def test_a_flipped_bit_is_refused(decoder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(decoder, copy)
    file = copy / "model" / "tokenizer.json"
    file.write_bytes(file.read_bytes().replace(b'"version"', b'"versioN"', 1))
    done = edgeforge("generate", copy, "lamp on")
    assert done.returncode == 2 and "is damaged" in done.stderr
    smoke = subprocess.run(
        [sys.executable, copy / "smoke_test.py"], capture_output=True, text=True, check=False
    )
    assert smoke.returncode == 1 and "tokenizer.json is damaged" in smoke.stdout


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--quantization", "int8-static"), "no quantization of a decoder"),
        (("--quantization", "int7"), "unknown quantization"),
    ],
)
def test_bad_quantizations(
    folder: Path, decoder: Path, arguments: tuple[str, ...], fault: str
) -> None:
    done = edgeforge(
        *("build", "--target", "cpu-server", "--model", folder / "llama"),
        *("--out", folder / "build", *arguments),
    )
    assert done.returncode == 2 and fault in done.stderr


def test_an_encoder_does_not_become_gguf(folder: Path, classifier: Path) -> None:
    done = edgeforge(
        *("build", "--target", "laptop", "--model", folder / "bert", "--quantization", "Q8_0"),
        *("--out", folder / "build"),
    )
    assert done.returncode == 2 and "is an encoder" in done.stderr
