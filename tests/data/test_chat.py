"""Chat templates render as transformers renders them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from toolchain.data.chat import ChatTemplateError, render_chat

ASSETS = Path(__file__).parents[3] / "shared" / "assets" / "chat_templates"
TALK = [
    {"role": "system", "content": " Be <brief> & \"kind\". "},
    {"role": "user", "content": "你好\n{{ x }}"},
    {"role": "assistant", "content": "  Hi  "},
    {"role": "user", "content": "Bye"},
]  # fmt: skip
FEATURES = """{# comment #}
{%- set ns = namespace(count=0) %}
{% for m in messages %}
    {% if m.role == 'assistant' %}
        {% generation %}{{ m.content | trim }}{% endgeneration %}

        {% continue %}
    {% endif %}
    {% set ns.count = ns.count + 1 %}
{{ ns.count }}{{ bos_token }}{{ m | tojson(indent=2) }}{{ dict(a=1).items() | list }}
    {% if loop.index == 4 %}{% break %}{% endif %}
{% endfor %}
{{ tools is none }}{{ add_generation_prompt }}{{ missing is defined }}{{ eos_token }}"""


def _transformers(template: str, messages: list[dict[str, str]], **more: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    values = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True, **more}
    rendered, _ = render_jinja_template([messages], chat_template=template, **values)
    return str(rendered[0])


@pytest.mark.parametrize("prompt", [True, False])
def test_every_feature_renders_as_in_transformers(prompt: bool) -> None:
    ours = render_chat(
        FEATURES, TALK, bos_token="<s>", eos_token="</s>", add_generation_prompt=prompt
    )
    assert ours == _transformers(FEATURES, TALK, add_generation_prompt=prompt)
    assert "你好" in ours and "<brief> &" in ours


@pytest.mark.real_model
def test_shared_templates_render_as_in_transformers() -> None:
    if not ASSETS.is_dir():
        pytest.skip(f"{ASSETS} is absent")
    for path in sorted(ASSETS.glob("*.jinja")):
        template = path.read_text(encoding="utf-8")
        ours = render_chat(template, TALK, bos_token="<s>", eos_token="</s>")
        assert ours == _transformers(template, TALK), path.name


def test_absent_token_is_undefined_and_variables_reach_the_template() -> None:
    template = "{{ bos_token is defined }} {{ thinking }} {{ messages[0].content }}"
    text = render_chat(template, TALK, bos_token=None, eos_token=None, thinking=False)
    assert text == "False False " + TALK[0]["content"]


def test_clock_can_be_set() -> None:
    now = datetime(2024, 2, 29)
    template = "{{ strftime_now('%Y-%m-%d') }}"
    assert render_chat(template, TALK, bos_token=None, eos_token=None, now=now) == "2024-02-29"
    today = render_chat(template, TALK, bos_token=None, eos_token=None)
    assert len(today) == 10 and today > "2024-02-29"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ bos_token + nothing }}", "undefined"),
        ("{% if %}", "not valid Jinja"),
    ],
)
def test_faults_of_a_template_are_one_clear_error(template: str, reason: str) -> None:
    with pytest.raises(ChatTemplateError, match=reason):
        render_chat(template, TALK, bos_token="<s>", eos_token="</s>")
