"""Bundles: what is in them, that every byte is covered, and that the same inputs give the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from tiny_bundle import make_bundle
from tiny_models import tiny_llama

from common.errors import UserError
from common.files import sha256_file
from toolchain import artifact as artifacts
from toolchain.data.text import TaskExample
from toolchain.export.bundle import record_answers
from toolchain.export.prompts import prompt_rows
from toolchain.export.provenance import reproducible
from toolchain.export.smoke_script import smoke_script
from toolchain.trust.pack import pack
from toolchain.trust.sums import digests


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_llama(tmp_path_factory.mktemp("checkpoint") / "tiny")
    (folder / "LICENSE").write_text("You may.\n")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(checkpoint, tmp_path_factory.mktemp("made"), task=True)


def test_it_holds_all_that_a_device_needs(made: Path) -> None:
    names = {p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file()}
    assert names == {
        *("model-Q4_K_M.gguf", "Modelfile", "Modelfile.jinja", "LICENSE", "SHA256SUMS"),
        *("prompts.jsonl", "smoke_test.py", "profile.json", "manifest.json", "artifact.json"),
        *("report.md", "report.zh-CN.md", "tokenizer/tokenizer.json"),
        *("tokenizer/tokenizer_config.json", "tokenizer/chat_template.jinja"),
        "tokenizer/generation_config.json",
    }
    assert (made / "smoke_test.py").read_text("utf-8") == smoke_script()


def test_sums_cover_every_file_and_coreutils_agree(made: Path) -> None:
    listed = {line.split("  ", 1)[1] for line in (made / "SHA256SUMS").read_text().splitlines()}
    present = {p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file()}
    assert listed == present - {"SHA256SUMS"}
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=made, check=True)


def test_the_same_inputs_in_another_folder_give_the_same_bytes(
    made: Path, checkpoint: Path, tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(checkpoint, tmp_path / "models" / "tiny")
    again = make_bundle(elsewhere, tmp_path / "deep" / "out", task=True)
    assert digests(again) == digests(made)
    assert (again / "SHA256SUMS").read_bytes() == (made / "SHA256SUMS").read_bytes()
    packed = [pack(bundle, tmp_path / f"{n}.tar") for n, bundle in enumerate((made, again))]
    assert packed[0].read_bytes() == packed[1].read_bytes()


def test_no_shipped_text_holds_a_path_or_a_time(made: Path, checkpoint: Path) -> None:
    for path in made.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".md"):
            text = path.read_text("utf-8")
            for place in (checkpoint.parent, made.parent.parent, Path.cwd(), Path.home()):
                assert str(place) not in text, path.name
            for figure in ("wall_sec", 'peak_rss_bytes": ', "text_sec"):
                assert figure not in text.replace("max_peak_rss_bytes", ""), path.name


def test_the_manifest_has_the_whole_chain(made: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text("utf-8"))
    convert, quantize = manifest["chain"]
    assert (convert["stage"], quantize["stage"]) == ("convert", "quantize")
    assert convert["parents"] == [manifest["base"]["digest"]]
    assert quantize["parents"] == [convert["digest"]]
    assert "model.safetensors" in manifest["base"]["files"]
    model = manifest["model_file"]
    assert quantize["files"] == {model["name"]: model["sha256"]}
    assert sum(row["tensors"] for row in model["types"]) == 21
    assert manifest["licences"]["model"] == "apache-2.0"
    assert manifest["versions"]["edgeforge"] == version("edgeforge")
    assert manifest["data"]["task"] == sha256_file(made.parents[1] / "task.jsonl")
    assert manifest["versions"]["llama-cpp-python"]
    names = [gate["name"] for gate in manifest["gates"]]
    assert {"token ids", "chat prompt", "mean KLD", "perplexity", "task score"} <= set(names)
    loaded = artifacts.load(made)
    assert loaded.stage == "bundle" and loaded.damaged_files() == []


def test_expected_answers_are_those_of_the_engine(made: Path) -> None:
    rows = [json.loads(line) for line in (made / "prompts.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 20 and len({row["id"] for row in rows}) == 20
    for row in rows:
        assert row["prompt"].endswith("<|im_start|>assistant\n") and not row["add_special"]
        assert 0 < len(row["expected_token_ids"]) <= row["max_new_tokens"] or row["stopped"]
        assert json.loads(row["reference"])["lamp"] in range(24)
    profile = json.loads((made / "profile.json").read_text("utf-8"))
    assert profile["recorded"]["name"] == "llama-cpp-python"
    assert profile["stop_texts"] == ["<|im_end|>"]
    assert profile["thresholds"]["max_peak_rss_bytes"] == 9 << 30


def test_a_base_model_continues_texts(tmp_path: Path) -> None:
    rows, stops = prompt_rows(tiny_llama(tmp_path / "base", chat_template=False), None, 512)
    assert len(rows) == 6 and all(row["add_special"] and row["messages"] is None for row in rows)
    assert stops == ["<|im_end|>"]


def test_a_template_that_prints_the_date_renders_the_same_every_day(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "dated")
    template = "{{ strftime_now('%Y-%m-%d') }}: {{ messages[0]['content'] }}"
    (folder / "chat_template.jinja").write_text(template)
    rows, _ = prompt_rows(folder, None, 512)
    assert rows[0]["prompt"].startswith("2025-01-01: ")


def test_prompts_that_do_not_fit_are_left_out_and_none_at_all_is_an_error(checkpoint: Path) -> None:
    long = TaskExample(({"role": "user", "content": "x " * 400},), "y")
    short = TaskExample(({"role": "user", "content": "x"},), "y")
    rows, _ = prompt_rows(checkpoint, [long, short], 256)
    assert [row["reference"] for row in rows] == ["y"]
    with pytest.raises(UserError, match="fits a context of 256"):
        prompt_rows(checkpoint, [long], 256)


def test_a_model_that_the_engine_refuses_is_an_error_with_its_reason(
    made: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(made, tmp_path / "broken")
    (broken / "model-Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(UserError, match=r"cannot be recorded: .*cannot load model-Q4_K_M\.gguf"):
        record_answers(broken)


def test_what_changes_between_builds_is_left_out() -> None:
    facts = {
        "wall_sec": 1.5,
        "peak_rss_bytes": 5,
        "kld_mean": 0.1,
        "calibration": "/home/user/text.txt",
        "deep": [{"task_sec": 2, "name": "text.txt"}],
    }
    assert reproducible(facts) == {"kld_mean": 0.1, "deep": [{"name": "text.txt"}]}


def test_importing_the_stage_loads_no_engine() -> None:
    code = (
        "import sys; import toolchain.commands.smoke, toolchain.smoke, toolchain.report.write; "
        "heavy = {'torch', 'transformers', 'llama_cpp', 'numpy', 'gguf', 'pydantic'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
