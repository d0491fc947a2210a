"""A family is chosen by what a template renders, and refused when none renders the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from family_templates import BY_NAME, NAMES, TEMPLATES

from toolchain.data.chat import ChatTemplateError, render_chat
from toolchain.export.ollama.chat_family import ChatFamilyError, match_family
from toolchain.export.ollama.conversations import ALL
from toolchain.export.ollama.families import load_families

ASSETS = Path(__file__).parents[4] / "shared" / "assets" / "chat_templates"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CHATML = BY_NAME["chatml"]


@pytest.mark.parametrize(("name", "family", "template"), TEMPLATES, ids=NAMES)
def test_family_renders_what_the_template_renders(name: str, family: str, template: str) -> None:
    match = match_family(template, **TOKENS)
    assert match.family == family
    refused = {kind for kind, _ in match.left_out}
    assert set(match.compared) | refused == {one.kind for one in ALL}
    talk = [
        {"role": "user", "content": "Bonjour  "},
        {"role": "assistant", "content": "Salut {{ x }}"},
        {"role": "user", "content": "\tÇa va ?"},
    ]
    expected = render_chat(template, talk, **TOKENS)
    bos = "<s>" if match.begins_with_bos else ""
    assert bos + match.render(talk) == expected


def test_every_family_has_a_template_here() -> None:
    tried = {family for _, family, _ in TEMPLATES}
    named = {family.name for family in load_families()}
    wanted = {"chatml", "llama-2", "llama-3", "mistral", "phi-3", "gemma", "zephyr", "alpaca"}
    assert {*wanted, "vicuna"} <= named
    assert tried == named


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("'<|im_end|>\n'", "'<|im_end|>\n' * loop.index"), "first difference"),
        (("<|im_start|>", "<|start|>"), "nearest is"),
        (("m.content +", "m.content | upper +"), "nearest is ChatML"),
        (("m.content +", "m.content | replace('{', '(') +"), "awkward"),
        (("'<|im_end|>\n'", "strftime_now('%d %b %Y')"), "today's date"),
    ],
    ids=["counts turns", "other markers", "upper case", "rewrites braces", "date"],
)
def test_template_that_no_family_renders_is_refused(change: tuple[str, str], reason: str) -> None:
    old, new = change
    raw_old = old.replace("\n", "\\n")
    assert raw_old in CHATML
    with pytest.raises(ChatFamilyError, match=reason):
        match_family(CHATML.replace(raw_old, new.replace("\n", "\\n")), **TOKENS)


def test_template_that_renders_nothing_gives_its_own_reason() -> None:
    with pytest.raises(ChatTemplateError, match="only for machines"):
        match_family("{{ raise_exception('only for machines') }}", **TOKENS)
    with pytest.raises(ChatTemplateError, match="not valid Jinja"):
        match_family("{% for m in messages %}", **TOKENS)


def test_kinds_that_the_template_refuses_are_reported_with_its_reason() -> None:
    template = BY_NAME["gemma, no system"]
    match = match_family(template, **TOKENS)
    assert {kind for kind, _ in match.left_out} == {one.kind for one in ALL if one.has_system}
    assert all("System role not supported" in reason for _, reason in match.left_out)


def test_bos_is_written_only_where_the_engine_does_not_add_it() -> None:
    template = "{{ bos_token }}" + CHATML
    added = match_family(template, **TOKENS)
    bare = match_family(template, **TOKENS, engine_adds_bos=False)
    assert added.go_template.startswith("{{ range")
    assert bare.go_template == "<s>" + added.go_template
    extra = match_family(CHATML, **TOKENS)
    assert any("BOS" in note for note in extra.notes)


def test_default_system_message_is_found() -> None:
    template = BY_NAME["chatml, default system"]
    assert match_family(template, **TOKENS).default_system == "You are a helpful assistant."


@pytest.mark.real_model
@pytest.mark.parametrize("compact", [False, True], ids=["as the file is", "without indents"])
def test_every_shared_template_has_a_family(compact: bool) -> None:
    if not ASSETS.is_dir():
        pytest.skip(f"{ASSETS} is absent")
    expected = {
        **{"HuggingFaceTB-SmolLM3-3B": "smollm3", "Qwen-Qwen2.5-7B-Instruct": "chatml"},
        **{"Qwen-Qwen3-0.6B": "chatml", "gemma-it": "gemma", "llama-2-chat": "llama-2"},
        **{"llama-3-instruct": "llama-3", "mistral-instruct": "mistral"},
    }
    files = sorted(ASSETS.glob("*.jinja"))
    assert files
    for path in files:
        template = path.read_text(encoding="utf-8")
        if compact and "{%-" not in template:
            template = template.replace("    ", "").replace("\n", "")
        match = match_family(template, **TOKENS)
        assert match.family == expected.get(path.stem, path.stem)
