"""Modelfiles: their text, and what a real Ollama reads out of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from family_templates import BY_NAME

from common.errors import UserError
from runtimes.ollama import Client
from toolchain.export.ollama.modelfile import (
    MODELFILE,
    MODELFILE_JINJA,
    ModelfileSettings,
    generation_parameters,
    needs_jinja,
    write_modelfiles,
)

SETTINGS = ModelfileSettings(BY_NAME["chatml"], "<s>", "</s>", num_ctx=2048)
UNKNOWN = "{% for m in messages %}[{{ loop.index }}] {{ m.content }}{% endfor %}"


def test_both_files_carry_the_same_but_for_the_template(tmp_path: Path) -> None:
    settings = replace(SETTINGS, num_thread=4, num_gpu=-1, seed=7, license_text="MIT\n\n(c) x")
    result = write_modelfiles(tmp_path, "model-Q4_K_M.gguf", settings)
    assert result.files == (MODELFILE, MODELFILE_JINJA)
    assert result.refusal is None and result.match and result.match.family == "chatml"
    plain = (tmp_path / MODELFILE).read_text().split("\n")
    jinja = (tmp_path / MODELFILE_JINJA).read_text().split("\n")
    start = plain.index("PARAMETER num_ctx 2048")
    assert plain[0] == jinja[1] == "FROM ./model-Q4_K_M.gguf"
    assert plain[start:] == jinja[2:]
    assert plain[start + 1 : start + 4] == [
        "PARAMETER num_thread 4",
        "PARAMETER num_gpu -1",
        "PARAMETER seed 7",
    ]
    assert [line for line in plain if "stop" in line] == [
        'PARAMETER stop "</s>"',
        'PARAMETER stop "<|im_start|>"',
        'PARAMETER stop "<|im_end|>"',
    ]
    assert plain[-4:] == ['LICENSE """MIT', "", '(c) x"""', ""]
    assert not needs_jinja(tmp_path / MODELFILE)
    assert needs_jinja(tmp_path / MODELFILE_JINJA)


def test_unknown_template_leaves_the_jinja_variant_and_the_reason(tmp_path: Path) -> None:
    result = write_modelfiles(tmp_path, "m.gguf", replace(SETTINGS, chat_template=UNKNOWN))
    assert result.match is None
    assert result.refusal is not None and "no known chat family" in result.refusal
    assert needs_jinja(tmp_path / MODELFILE)
    assert (tmp_path / MODELFILE).read_text() == (tmp_path / MODELFILE_JINJA).read_text()
    assert result.stops == ("</s>",)


def test_base_model_gets_its_prompt_as_it_is(tmp_path: Path) -> None:
    result = write_modelfiles(tmp_path, "m.gguf", replace(SETTINGS, chat_template=None))
    assert result.files == (MODELFILE,)
    assert 'TEMPLATE "{{ .Prompt }}"' in (tmp_path / MODELFILE).read_text()


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({}, {"temperature": 0, "repeat_penalty": 1.0}),
        ({"do_sample": False, "temperature": 0.7}, {"temperature": 0, "repeat_penalty": 1.0}),
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": None, "max_length": 9},
            {"temperature": 0.7, "top_k": 50, "top_p": 0.8, "min_p": 0.0, "repeat_penalty": 1.0},
        ),
        (
            {"repetition_penalty": 1.05, "max_new_tokens": 64},
            {"temperature": 0, "repeat_penalty": 1.05, "repeat_last_n": -1, "num_predict": 64},
        ),
    ],
)
def test_generation_config_is_carried_over(
    generation: dict[str, object], expected: dict[str, object]
) -> None:
    assert generation_parameters(generation) == expected


def test_device_parameters_win(tmp_path: Path) -> None:
    settings = replace(SETTINGS, parameters={"temperature": 0.2, "num_batch": 64, "use_mmap": True})
    assert write_modelfiles(tmp_path, "m.gguf", settings).parameters["temperature"] == 0.2
    text = (tmp_path / MODELFILE).read_text()
    assert "PARAMETER temperature 0.2\n" in text
    assert "PARAMETER num_batch 64\nPARAMETER use_mmap true\n" in text


@pytest.mark.parametrize(
    ("change", "gguf_name"),
    [
        ({}, "../m.gguf"),
        ({}, "m.gguf\nSYSTEM x"),
        ({"parameters": {"x\nSYSTEM y": 1}}, "m.gguf"),
        ({"system": "wide\u3000blank"}, "m.gguf"),
        ({"system": 'ends early """\nSYSTEM x'}, "m.gguf"),
        ({"eos_tokens": ["<\u200b>"]}, "m.gguf"),
    ],
)
def test_what_a_modelfile_cannot_carry_is_refused(
    change: dict[str, object], gguf_name: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError):
        write_modelfiles(tmp_path, gguf_name, replace(SETTINGS, **change))
    assert list(tmp_path.iterdir()) == []


SYSTEMS = (
    "plain",
    'He said "no".',
    '"quoted"',
    "two\n\tlines\n",
    "ends with a quote\"",
    "{{ .System }} # no comment\nFROM elsewhere\nPARAMETER seed 1",
    'inner """ quotes',
    "  padded  ",
    "中文，「引号」🙂",
)  # fmt: skip


@pytest.mark.parametrize("system", SYSTEMS)
def test_ollama_reads_the_texts_back_unchanged(
    ollama: Client, tmp_path: Path, tiny: Path, system: str
) -> None:
    (tmp_path / "m.gguf").symlink_to(tiny)
    stops = ["</s>", '"', "line\nbreak", " x ", "a\\n"]
    settings = replace(SETTINGS, system=system, license_text=system, eos_tokens=stops)
    result = write_modelfiles(tmp_path, "m.gguf", settings)
    for name in result.files:
        ollama.create("texts", tmp_path / name)
        shown = ollama.show("texts")
        assert shown["system"] == system
        assert shown["license"] == system.replace('"""', "'''")
        options = ollama.show("texts")["parameters"]
        assert options.count("stop ") == len(result.stops)
        assert 'stop                           "\\""' in options
        assert '"line\\nbreak"' in options and '" x "' in options and '"a\\\\n"' in options
    assert result.match is not None
    ollama.create("texts", tmp_path / MODELFILE)
    assert ollama.show("texts")["template"] == result.match.go_template


def test_default_system_message_is_shown_and_can_be_replaced(
    ollama: Client, tmp_path: Path, tiny: Path
) -> None:
    (tmp_path / "m.gguf").symlink_to(tiny)
    settings = replace(SETTINGS, chat_template=BY_NAME["chatml, default system"])
    write_modelfiles(tmp_path, "m.gguf", settings)
    ollama.create("default", tmp_path / MODELFILE)
    assert ollama.show("default")["system"] == "You are a helpful assistant."
    user = {"role": "user", "content": "Hi"}
    assert "system\nYou are a helpful assistant.<|im_end|>" in ollama.render("default", [user])
    own = ollama.render("default", [{"role": "system", "content": "Mine."}, user])
    assert own.startswith("<|im_start|>system\nMine.<|im_end|>")
