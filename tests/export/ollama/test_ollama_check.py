"""`edgeforge ollama` on a bundle, with a real Ollama."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest
from family_templates import BY_NAME
from ollama_models import write_tiny_gguf

from common.errors import UserError
from runtimes.ollama import Client
from runtimes.ollama_server import free_port
from toolchain.commands import ollama as command
from toolchain.data.chat import render_chat
from toolchain.export.ollama.check import Check, choose_modelfile, prove
from toolchain.export.ollama.modelfile import MODELFILE, ModelfileSettings, write_modelfiles

SAID = "Helo wrd."
CHATML = BY_NAME["chatml"]
TALK = [{"role": "user", "content": "Say hello, 你好"}]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as a build leaves it, as far as Ollama needs it, under OUT/tiny/laptop."""
    bundle = tmp_path_factory.mktemp("out") / "tiny" / "laptop"
    bundle.mkdir(parents=True)
    template = "{{ bos_token }}" + CHATML
    write_tiny_gguf(bundle / "tiny-F16.gguf", chat_template=template, say=SAID)
    settings = ModelfileSettings(template, "<s>", "</s>", num_ctx=1024, num_thread=1)
    write_modelfiles(bundle, "tiny-F16.gguf", settings)
    (bundle / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    prompt = render_chat(template, TALK, bos_token="<s>", eos_token="</s>")
    text = prompt.removeprefix("<s>").replace(" ", "▁")  # as SentencePiece writes a space
    row = {
        "messages": TALK,
        "prompt": prompt,
        "token_ids": [1, *(3 + byte for byte in text.encode())],
        "max_new_tokens": 32,
        "expected": SAID,
        "stopped": True,
    }
    (bundle / "prompts.jsonl").write_text(json.dumps(row) + "\n")
    return bundle


@pytest.fixture
def bundle(finished: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(finished, tmp_path / "tiny" / "laptop"))


def _change(bundle: Path, **values: object) -> None:
    path = bundle / "prompts.jsonl"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}) + "\n")


def _by_name(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.status for check in checks}


def _args(bundle: Path, **more: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    out = str(bundle.parent.parent)
    args = parser.parse_args(["--target", "laptop", "--model", "tiny", "--out", out])
    return argparse.Namespace(**{**vars(args), **more})


def test_good_bundle_passes_every_check(ollama: Client, bundle: Path) -> None:
    checks = prove(ollama, "good", bundle, bundle / MODELFILE)
    assert set(_by_name(checks)) == {
        *("create", "quantization", "parameters", "template", "rendered prompt"),
        *("prompt tokens", "answer stops", "greedy answer"),
    }
    assert set(_by_name(checks).values()) == {"passed"}, checks


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({"prompt": "<s>something else"}, {"rendered prompt"}),
        ({"token_ids": [1, 2, 3]}, {"prompt tokens"}),
        ({"max_new_tokens": 8}, {"answer stops"}),
        ({"expected": "Goodbye, world"}, {"greedy answer"}),
    ],
)
def test_each_fault_is_found(
    ollama: Client, bundle: Path, change: dict[str, object], failing: set[str]
) -> None:
    _change(bundle, **change)
    statuses = _by_name(prove(ollama, "faulty", bundle, bundle / MODELFILE))
    assert {name for name, status in statuses.items() if status == "failed"} == failing


def test_answer_that_parts_late_is_noted_not_failed(ollama: Client, bundle: Path) -> None:
    _change(bundle, expected=SAID[:-1] + "!")
    checks = prove(ollama, "late", bundle, bundle / MODELFILE)
    note = next(check for check in checks if check.name == "greedy answer")
    assert note.status == "noted" and "89%" in note.note


def test_answer_that_never_stopped_is_noted(ollama: Client, bundle: Path) -> None:
    _change(bundle, stopped=False, max_new_tokens=8, expected=SAID[:8])
    statuses = _by_name(prove(ollama, "endless", bundle, bundle / MODELFILE))
    assert statuses["answer stops"] == "noted" and statuses["greedy answer"] == "passed"


def test_command_uses_a_running_server_and_leaves_the_model_there(
    ollama: Client,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama.url)
    assert command.run(_args(bundle, json=True)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] is True
    assert result["name"] == "edgeforge-tiny-laptop"
    assert "edgeforge-tiny-laptop:latest" in ollama.names()
    _change(bundle, prompt="another")
    assert command.run(_args(bundle)) == 1
    out = capsys.readouterr().out
    assert "rendered prompt  failed" in out and "1 checks failed" in out


def test_command_starts_a_server_when_none_runs(
    ollama: Client,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "store"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command.run(_args(bundle, name="mine")) == 0
    output = capsys.readouterr()
    assert "no Ollama is running: one is started" in output.err
    assert "ollama run mine" in output.out
    assert (tmp_path / "store" / "manifests").is_dir()


def test_variant_is_chosen_by_version(bundle: Path) -> None:
    assert choose_modelfile(bundle, (0, 17, 4)).name == "Modelfile"
    assert choose_modelfile(bundle, (0, 30, 0)).name == "Modelfile.jinja"
    assert choose_modelfile(bundle, (1, 0)).name == "Modelfile.jinja"
    shutil.copy(bundle / "Modelfile.jinja", bundle / "Modelfile")
    with pytest.raises(UserError, match=r"needs Ollama 0\.30 or newer, not 0\.17\.4"):
        choose_modelfile(bundle, (0, 17, 4))
    (bundle / "Modelfile").unlink()
    with pytest.raises(UserError, match="no finished bundle"):
        choose_modelfile(bundle, (0, 17, 4))


def test_bundle_without_prompts_is_refused(ollama: Client, bundle: Path) -> None:
    (bundle / "prompts.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no recorded prompt"):
        prove(ollama, "empty", bundle, bundle / MODELFILE)


def test_refused_name_comes_before_any_work(bundle: Path) -> None:
    with pytest.raises(UserError, match="no name for an Ollama model"):
        command.run(_args(bundle, name="--bad"))
