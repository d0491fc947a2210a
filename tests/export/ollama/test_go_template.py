"""The Go TEMPLATE renders in a real Ollama what the Jinja template renders."""

from __future__ import annotations

from pathlib import Path

import pytest
from family_templates import BY_NAME, NAMES, TEMPLATES
from ollama_models import write_tiny_gguf

from runtimes.ollama import Client
from toolchain.data.chat import ChatTemplateError, render_chat
from toolchain.export.ollama.conversations import ALL
from toolchain.export.ollama.go_template import is_printable, literal
from toolchain.export.ollama.modelfile import ModelfileSettings, write_modelfiles

ASSETS = Path(__file__).parents[4] / "shared" / "assets" / "chat_templates"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
# Every character that Python's str.strip(), and so Jinja's trim, takes for a blank.
BLANKS = "".join(chr(code) for code in range(0x110000) if chr(code).isspace())


def assert_rendered_the_same(
    client: Client, folder: Path, template: str, *, add_bos: bool = True
) -> None:
    """Create a model with the Modelfile of this template; compare every kind of conversation."""
    settings = ModelfileSettings(template, "<s>", "</s>", engine_adds_bos=add_bos, num_ctx=8192)
    match = write_modelfiles(folder, "tiny.gguf", settings).match
    assert match is not None
    client.create("trial", folder / "Modelfile")
    compared = 0
    for conversation in ALL:
        try:
            expected = render_chat(template, conversation.messages, **TOKENS)
        except ChatTemplateError:
            continue
        if match.begins_with_bos and add_bos:
            expected = expected.removeprefix("<s>")
        assert client.render("trial", conversation.messages) == expected, conversation.kind
        compared += 1
    assert compared == len(match.compared)


@pytest.mark.parametrize(("name", "family", "template"), TEMPLATES, ids=NAMES)
def test_ollama_renders_as_the_jinja_template(
    ollama: Client, tmp_path: Path, tiny: Path, name: str, family: str, template: str
) -> None:
    (tmp_path / "tiny.gguf").symlink_to(tiny)
    assert_rendered_the_same(ollama, tmp_path, template)


def test_ollama_renders_bos_where_the_engine_adds_none(ollama: Client, tmp_path: Path) -> None:
    llama_2 = BY_NAME["llama-2"]
    write_tiny_gguf(tmp_path / "tiny.gguf", add_bos=False)
    assert_rendered_the_same(ollama, tmp_path, llama_2, add_bos=False)


@pytest.mark.parametrize("name", ["chatml", "llama-2", "gemma, system in turn", "vicuna"])
def test_cut_conversation_keeps_its_system_message(
    ollama: Client, tmp_path: Path, tiny: Path, name: str
) -> None:
    """Where a conversation exceeds num_ctx, Ollama takes turns away after the system message."""
    (tmp_path / "tiny.gguf").symlink_to(tiny)
    settings = ModelfileSettings(BY_NAME[name], "<s>", "</s>", num_ctx=8192)
    match = write_modelfiles(tmp_path, "tiny.gguf", settings).match
    assert match is not None
    ollama.create("cut", tmp_path / "Modelfile")
    talk = [
        {"role": "system", "content": "Be kind."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Who are you?"},
    ]
    rendered = ollama.render("cut", talk)
    assert rendered == match.render(talk)
    assert "Be kind." in rendered


@pytest.mark.real_model
def test_ollama_renders_every_shared_template(ollama: Client, tmp_path: Path, tiny: Path) -> None:
    if not ASSETS.is_dir():
        pytest.skip(f"{ASSETS} is absent")
    (tmp_path / "tiny.gguf").symlink_to(tiny)
    for path in sorted(ASSETS.glob("*.jinja")):
        assert_rendered_the_same(ollama, tmp_path, path.read_text(encoding="utf-8"))


def test_ollama_strips_exactly_the_blanks_that_python_strips(
    ollama: Client, tmp_path: Path, tiny: Path
) -> None:
    template = BY_NAME["llama-3"]
    (tmp_path / "tiny.gguf").symlink_to(tiny)
    settings = ModelfileSettings(template, "<s>", "</s>", num_ctx=8192)
    match = write_modelfiles(tmp_path, "tiny.gguf", settings).match
    assert match is not None
    ollama.create("blanks", tmp_path / "Modelfile")
    no_blanks = "\u200b\u2060\ufeff\x00\x08"
    for content in (f"{BLANKS}x{BLANKS}y{BLANKS}", *(f"{c}x{c}" for c in no_blanks)):
        talk = [{"role": "user", "content": content}]
        expected = render_chat(template, talk, **TOKENS).removeprefix("<s>")
        assert ollama.render("blanks", talk) == expected == match.render(talk)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("<|im_start|>user\n", "<|im_start|>user\n"),
        ("a {{ b", '{{ "a {{ b" }}'),
        ("ends {", '{{ "ends {" }}'),
        ('"""', '{{ "\\x22\\x22\\x22" }}'),
        ("开\u3000始\t", '{{ "开\\U00003000始\\t" }}'),
    ],
)
def test_literal_survives_modelfile_and_template(text: str, expected: str) -> None:
    assert literal(text) == expected
    assert all(c == "\n" or is_printable(c) for c in literal(text))
