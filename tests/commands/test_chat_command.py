"""`edgeforge chat` through a pipe, and the session's history and commands, with real engines."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import tiny_llama

from toolchain import cli
from toolchain.artifact import Artifact
from toolchain.chat import Chat
from toolchain.export.gguf import convert
from toolchain.models import OpenModel, OpenOptions, open_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chat")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return tiny_llama(folder / "checkpoint", hidden=128, ffn=96)


@pytest.fixture(scope="module")
def gguf(folder: Path, checkpoint: Path) -> Path:
    (folder / "gguf").mkdir()
    config = convert.Config(intermediate="f32", model_name="tiny")
    source = Artifact(checkpoint, "hf", {}, "input")
    return convert.run(source, config, folder / "gguf").only(".gguf")


@pytest.fixture
def model(gguf: Path) -> Iterator[OpenModel]:
    with open_model(str(gguf), OpenOptions(context_tokens=128, parallel=1)) as opened:
        yield opened


def session(model: OpenModel, **settings: object) -> Chat:
    settings.setdefault("max_tokens", 6)
    return Chat(model, io.StringIO(), io.StringIO(), **settings)  # type: ignore[arg-type]


def talk(chat: Chat, *lines: str) -> str:
    """Feed lines to the session; its notes."""
    given = iter(lines)
    chat.run(lambda: next(given, None))
    assert isinstance(chat.notes, io.StringIO)
    return chat.notes.getvalue()


def greedy(model: OpenModel, messages: list[dict[str, str]], tokens: int) -> str:
    return model.runtime.generate(model.prompt_ids(messages), tokens).text


def test_the_history_is_part_of_the_prompt(model: OpenModel) -> None:
    chat = session(model, system="Be brief.")
    talk(chat, "lamp on", "and the tv")
    system = {"role": "system", "content": "Be brief."}
    first = [system, {"role": "user", "content": "lamp on"}]
    answer = greedy(model, first, 6)
    second = [*first, {"role": "assistant", "content": answer}]
    second.append({"role": "user", "content": "and the tv"})
    assert chat.turns[1]["content"] == answer
    assert chat.turns[3]["content"] == greedy(model, second, 6)
    assert isinstance(chat.out, io.StringIO)
    assert chat.out.getvalue() == f"{answer}\n{chat.turns[3]['content']}\n"


def test_commands(model: OpenModel) -> None:
    chat = session(model)
    notes = talk(chat, "one", "/reset", "/system Answer in JSON.", "/hlep", "/help", "  ")
    assert (chat.turns, chat.system) == ([], "Answer in JSON.")
    assert "did you mean '/help'" in notes and "Ctrl-D" in notes
    talk(chat, "/system", "two", "/exit", "three")
    assert not chat.system
    assert [turn["content"] for turn in chat.turns if turn["role"] == "user"] == ["two"]


def test_a_full_context_drops_the_oldest_turns(model: OpenModel) -> None:
    chat = session(model, max_tokens=20)
    notes = talk(chat, *(f"turn the lamp {number} on" for number in range(8)))
    assert "the context is full: the oldest 1 turn dropped" in notes
    assert chat.turns[0]["role"] == "user" and chat.turns[-1]["role"] == "assistant"
    assert chat.turns[-2]["content"] == "turn the lamp 7 on"
    assert len(chat.turns) < 16
    before = list(chat.turns)
    assert "does not fit the context of 128" in talk(chat, "lamp " * 200)
    assert chat.turns == before


def test_stopping_keeps_the_answer_so_far(model: OpenModel) -> None:
    class CtrlC(io.StringIO):
        """Ctrl-C comes while the third piece is written."""

        pieces = 0

        def write(self, text: str) -> int:
            self.pieces += 1
            if self.pieces == 3:
                raise KeyboardInterrupt
            return super().write(text)

    full = session(model, max_tokens=12)
    talk(full, "turn on the lamp")
    chat = Chat(model, CtrlC(), io.StringIO(), max_tokens=12)
    assert "stopped" in talk(chat, "turn on the lamp", "/help")
    answer, whole = chat.turns[-1]["content"], full.turns[-1]["content"]
    assert whole.startswith(answer) and 0 < len(answer) < len(whole)


def test_a_pipe_gets_the_answers_alone(
    gguf: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "lamp on\n/system brief\n把灯打开\n"
    answers = []
    for path in (gguf, checkpoint):
        program = (
            "import sys; from toolchain import cli; "
            "cli.VERBS['chat'] = 'toolchain.commands.chat'; sys.exit(cli.main())"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, "chat", str(path), "--max-tokens", "5"],
            input=lines.encode(),
            capture_output=True,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert "system message set" in done.stderr.decode()
        assert "system message" not in done.stdout.decode()
        answers.append(done.stdout.decode())
    assert answers[0] == answers[1]
    with open_model(str(gguf), OpenOptions(context_tokens=128, parallel=1)) as model:
        first = greedy(model, [{"role": "user", "content": "lamp on"}], 5)
    assert answers[0].startswith(f"{first}\n")


def test_a_base_model_continues_the_line(folder: Path) -> None:
    base = tiny_llama(folder / "base", hidden=128, ffn=96, chat_template=False)
    with open_model(str(base), OpenOptions(context_tokens=128)) as model:
        chat = session(model)
        notes = talk(chat, "The quick", "brown fox")
        assert "no chat template" in notes
        ids = model.runtime.tokenize("brown fox", add_special=True)
        assert chat.turns[-1]["content"] == model.runtime.generate(ids, 6).text


def test_a_template_that_refuses_is_a_note(folder: Path, checkpoint: Path) -> None:
    import shutil

    strict = folder / "strict"
    shutil.copytree(checkpoint, strict)
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template = strict / "chat_template.jinja"
    template.write_text(refusal + template.read_text("utf-8"), "utf-8")
    with open_model(str(strict), OpenOptions(context_tokens=128)) as model:
        chat = session(model)
        assert "no system" in talk(chat, "/system brief", "lamp on")
        assert chat.turns == []
        talk(chat, "/system", "lamp on")
        assert len(chat.turns) == 2


@pytest.mark.parametrize("missing", ["nowhere", "nowhere.gguf"])
def test_a_missing_model(folder: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["chat", str(folder / missing)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_bad_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, value in itertools.product(["--temperature", "--max-tokens"], ["-1", "x"]):
        assert cli.main(["chat", "demo", flag, value]) == 2
    assert "'x' is no" in capsys.readouterr().err
