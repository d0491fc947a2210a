"""`edgeforge ollama` on a bundle, with a real Ollama."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import pytest
from family_templates import BY_NAME
from ollama_models import write_tiny_gguf

from common.errors import UserError
from runtimes.gguf_file import read_metadata
from runtimes.llama import LlamaModel
from runtimes.ollama import Client
from runtimes.ollama_server import free_port
from runtimes.quantizer import quantize
from toolchain.commands import ollama as command
from toolchain.data.chat import render_chat
from toolchain.export.ollama.check import choose_modelfile, prove
from toolchain.export.ollama.checks import Check, Facts, read_facts
from toolchain.export.ollama.modelfile import MODELFILE, ModelfileSettings, write_modelfiles
from toolchain.export.ollama.shown import quantization_check
from toolchain.export.ollama.trial import trial, trial_name
from toolchain.trust.sums import write_sums

SAID = "Helo wrd."
CHATML = BY_NAME["chatml"]
TALK = [{"role": "user", "content": "Say hello, 你好"}]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as a build leaves it, as far as Ollama needs it, under OUT/tiny/laptop."""
    bundle = tmp_path_factory.mktemp("out") / "tiny" / "laptop"
    bundle.mkdir(parents=True)
    template = "{{ bos_token }}" + CHATML
    write_tiny_gguf(bundle / "tiny-F16.gguf", chat_template=template, say=SAID)
    settings = ModelfileSettings(template, "<s>", "</s>", num_ctx=1024, num_thread=1)
    write_modelfiles(bundle, "tiny-F16.gguf", settings)
    (bundle / "tokenizer").mkdir()
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template}
    (bundle / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(tokens))
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
    write_sums(bundle)
    return bundle


@pytest.fixture
def bundle(finished: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(finished, tmp_path / "tiny" / "laptop"))


def _change(bundle: Path, **values: object) -> None:
    path = bundle / "prompts.jsonl"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}) + "\n")
    write_sums(bundle)


def _by_name(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.status for check in checks}


def _proven(client: Client, bundle: Path) -> list[Check]:
    """The checks of a trial, which leaves nothing."""
    modelfile = bundle / MODELFILE
    with trial(client, "tiny", bundle, modelfile) as name:
        return prove(client, name, read_facts(bundle, modelfile))


def _use(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command find this client's program."""
    assert client.binary is not None
    monkeypatch.setenv("PATH", str(client.binary.parent), prepend=os.pathsep)


def _args(bundle: Path, **more: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    out = str(bundle.parent.parent)
    args = parser.parse_args(["--target", "laptop", "--model", "tiny", "--out", out])
    return argparse.Namespace(**{**vars(args), **more})


def test_good_bundle_passes_every_check_and_leaves_nothing(ollama: Client, bundle: Path) -> None:
    before = sorted(ollama.names())
    checks = _proven(ollama, bundle)
    assert set(_by_name(checks)) == {
        *("files", "quantization", "context", "parameters", "template", "rendered prompt"),
        *("rendered conversations", "rendered by generate", "chat answer", "generate answer"),
        *("loaded context", "prompt tokens", "answers stop", "greedy answers"),
    }
    assert set(_by_name(checks).values()) == {"passed"}, checks
    assert sorted(ollama.names()) == before


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (
            {"prompt": "<s>something else?"},
            {"rendered prompt", "rendered by generate", "prompt tokens"},
        ),
        ({"token_ids": [1, 2, 3]}, {"prompt tokens"}),
        ({"max_new_tokens": 8}, {"chat answer", "generate answer", "answers stop"}),
        ({"expected": "Goodbye, world"}, {"chat answer", "generate answer", "greedy answers"}),
    ],
)
def test_each_fault_is_found(
    ollama: Client, bundle: Path, change: dict[str, object], failing: set[str]
) -> None:
    _change(bundle, **change)
    statuses = _by_name(_proven(ollama, bundle))
    assert {name for name, status in statuses.items() if status == "failed"} == failing


def test_each_change_of_the_modelfile_is_found(
    ollama: Client, finished: Path, bundle: Path
) -> None:
    """What Ollama holds is another model than the one that the bundle's Modelfile asks for."""
    asked = read_facts(finished, finished / MODELFILE)
    text = asked.modelfile.replace("num_ctx 1024", "num_ctx 512").replace("user\n", "User\n")
    (bundle / MODELFILE).write_text(f'{text}SYSTEM "Be kind."\nPARAMETER top_k 3\n')
    write_tiny_gguf(bundle / "tiny-F16.gguf", say="Other")
    with trial(ollama, "tiny", bundle, bundle / MODELFILE) as name:
        found = _by_name(prove(ollama, name, asked))
    failed = {name for name, status in found.items() if status == "failed"}
    assert failed >= {"files", "parameters", "template", "loaded context"}
    assert failed >= {"rendered prompt", "rendered conversations", "greedy answers"}


def test_own_system_message_is_part_of_what_is_expected(ollama: Client, bundle: Path) -> None:
    with (bundle / MODELFILE).open("a") as file:
        file.write('SYSTEM "Be kind."\n')
    statuses = _by_name(_proven(ollama, bundle))
    assert statuses["system"] == statuses["rendered prompt"] == "passed"
    assert set(statuses.values()) == {"passed"}, statuses


def test_answer_that_parts_late_is_noted_not_failed(ollama: Client, bundle: Path) -> None:
    _change(bundle, expected=SAID[:-1] + "!")
    checks = _proven(ollama, bundle)
    note = next(check for check in checks if check.name == "greedy answers")
    assert note.status == "noted" and "89%" in note.note
    (bundle / "profile.json").write_text('{"thresholds": {"min_answers_equal": 0.9}}')
    assert _by_name(_proven(ollama, bundle))["greedy answers"] == "failed"


def test_answer_that_never_stopped_is_noted(ollama: Client, bundle: Path) -> None:
    _change(bundle, stopped=False, max_new_tokens=8, expected=SAID[:8])
    statuses = _by_name(_proven(ollama, bundle))
    assert statuses["answers stop"] == "noted" and statuses["greedy answers"] == "passed"


@pytest.mark.parametrize("quantization", ["Q4_0", "Q4_K_M", "Q5_K_M", "Q8_0", "F16"])
def test_every_type_is_shown_and_answers_as_in_llama_cpp(
    ollama: Client, tmp_path: Path, quantization: str
) -> None:
    source, file = write_tiny_gguf(tmp_path / "F16.gguf", say=SAID, hidden=256), tmp_path / "m.gguf"
    quantize(source, file, quantization)
    with LlamaModel(file, context_tokens=64) as model:
        expected = model.generate(model.tokenize("hi", add_special=True), 32).text
    (tmp_path / MODELFILE).write_text(
        "FROM ./m.gguf\nTEMPLATE {{ .Prompt }}\nPARAMETER num_ctx 64\n"
    )
    with trial(ollama, "tiny", tmp_path, tmp_path / MODELFILE) as name:
        shown, tensors = ollama.show(name), ollama.tensors(name)
        reply = ollama.generate(name, "hi", raw=True, options={"temperature": 0})
    facts = Facts(tmp_path, "", file, None, read_metadata(file), (), None, None, None)
    assert quantization_check(shown, tensors, facts).status == "passed"
    assert reply["response"] == expected == SAID


def test_command_uses_a_running_server_and_leaves_the_model_there(
    ollama: Client,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama.url)
    _use(ollama, monkeypatch)
    assert command.run(_args(bundle, json=True)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] is True
    assert result["name"] == "edgeforge-tiny-laptop"
    assert "edgeforge-tiny-laptop:latest" in ollama.names()
    held = sorted(ollama.show("edgeforge-tiny-laptop")["modelfile"].splitlines())
    _change(bundle, prompt="another?")
    assert command.run(_args(bundle)) == 1
    out = capsys.readouterr().out
    assert "rendered prompt         failed" in out and "3 checks failed" in out
    assert sorted(ollama.show("edgeforge-tiny-laptop")["modelfile"].splitlines()) == held
    assert f"{trial_name('edgeforge-tiny-laptop')}:latest" not in ollama.names()


def test_command_starts_a_server_when_none_runs(
    ollama: Client,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free_port()}")
    _use(ollama, monkeypatch)
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


def test_onnx_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"runtime": "onnxruntime"}')
    with pytest.raises(UserError, match="Ollama runs GGUF"):
        choose_modelfile(tmp_path, (0, 17, 4))


def test_bundle_without_prompts_is_refused(ollama: Client, bundle: Path) -> None:
    (bundle / "prompts.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no recorded prompt"):
        _proven(ollama, bundle)
    assert trial_name("tiny") + ":latest" not in ollama.names()


def test_refused_name_comes_before_any_work(bundle: Path) -> None:
    with pytest.raises(UserError, match="no name for an Ollama model"):
        command.run(_args(bundle, name="--bad"))
