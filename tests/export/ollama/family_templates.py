"""Chat templates of every family, written for the tests in the ways that templates are written.

Each row: name of the template, the family it must be matched with, the template.
"""

from __future__ import annotations


def _turns(system: str, user: str, assistant: str, generation: str) -> str:
    """A template of three branches; each argument is a Jinja expression."""
    return (
        "{% for m in messages %}"
        "{% if m.role == 'system' %}{{ " + system + " }}"
        "{% elif m.role == 'user' %}{{ " + user + " }}"
        "{% else %}{{ " + assistant + " }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ " + generation + " }}{% endif %}"
    )


def _roles(before: str, after: str, generation: str, content: str = "m.content") -> str:
    """A template that writes all roles in one way."""
    return (
        "{% for m in messages %}{{ " + f"{before} + {content} + {after}" + " }}{% endfor %}"
        "{% if add_generation_prompt %}{{ " + generation + " }}{% endif %}"
    )


_CHATML = _roles(r"'<|im_start|>' + m.role + '\n'", r"'<|im_end|>\n'", r"'<|im_start|>assistant\n'")
_LLAMA_3 = "{{ bos_token }}" + _roles(
    r"'<|start_header_id|>' + m.role + '<|end_header_id|>\n\n'",
    "'<|eot_id|>'",
    r"'<|start_header_id|>assistant<|end_header_id|>\n\n'",
    "m.content | trim",
)
_LLAMA_2 = """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}\
{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}\
{% set system = false %}{% endif %}{% for m in rest %}\
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate') }}{% endif %}\
{% if loop.index0 == 0 and system != false %}\
{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}\
{% else %}{% set content = m['content'] %}{% endif %}\
{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
_MISTRAL = """{{ bos_token }}{% for m in messages %}\
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate') }}{% endif %}\
{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}\
{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"""
_MISTRAL_LAST = """{%- if messages[0].role == "system" %}{%- set system = messages[0].content %}
{%- set rest = messages[1:] %}{%- else %}{%- set rest = messages %}{%- endif %}
{{- bos_token }}
{%- for m in rest %}
    {%- if m.role == "user" %}
        {%- if loop.last and system is defined %}
            {{- "[INST] " + system + "\\n\\n" + m.content + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + m.content + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + m.content | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""
_GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}\
{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}\
{% if (m['role'] == 'assistant') %}{% set role = 'model' %}{% else %}\
{% set role = m['role'] %}{% endif %}\
{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
_GEMMA_3 = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}\
{% set head = messages[0]['content'] + '\\n\\n' %}{% set rest = messages[1:] %}\
{% else %}{% set head = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}\
{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\\n' + \
(head if loop.first else '') }}{{ m['content'] | trim }}{{ '<end_of_turn>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
_QWEN = (
    "{% if messages[0].role != 'system' %}"
    r"{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
) + _CHATML
_PHI_3_OLD = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    r"{{'<|user|>' + '\n' + m.content + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}"
    r"{% elif m.role == 'assistant' %}{{m.content + '<|end|>' + '\n'}}{% endif %}{% endfor %}"
)
_INDENTED = """{{ bos_token }}
{% for message in messages %}
    {% if message['role'] == 'tool' %}
        {{ raise_exception('no tools') }}
    {% endif %}

    {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}
{% endfor %}

{% if add_generation_prompt %}
    {{ '<|im_start|>assistant\\n' }}
{% endif %}
"""
_ALPACA = _turns(
    r"m.content + '\n\n'",
    r"'### Instruction:\n' + m.content + '\n\n'",
    r"'### Response:\n' + m.content + eos_token + '\n\n'",
    r"'### Response:\n'",
)
_ALPACA_WITH_DEFAULT = (
    "{% if messages[0].role != 'system' %}{{ 'Below is an instruction that describes a task. "
    r"Write a response that appropriately completes the request.\n\n' }}{% endif %}"
) + _ALPACA
_VICUNA = _turns(
    "m.content + ' '", "'USER: ' + m.content + ' '", "'ASSISTANT: ' + m.content + eos_token",
    "'ASSISTANT:'",
)  # fmt: skip

_LLAMA_3_DATED = """{{- bos_token }}{%- if messages[0].role == 'system' %}
{%- set system = messages[0].content | trim %}{%- set rest = messages[1:] %}{%- else %}
{%- set system = '' %}{%- set rest = messages %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Cutting Knowledge Date: December 2023\\nToday Date: 26 Jul 2024\\n\\n' }}
{{- system + '<|eot_id|>' }}
{%- for m in rest %}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
_LLAMA_2_DEFAULT = _LLAMA_2.replace(
    "{% set system = false %}", "{% set system = 'You are honest.\\n\\nAlways.' %}"
)
_SMOLLM3 = """{{ '<|im_start|>system\\n## Metadata\\n\\nKnowledge Cutoff Date: June 2025\\n' }}\
{{ 'Reasoning Mode: /think\\n\\n## Custom Instructions\\n\\n' }}\
{% if messages[0].role == 'system' %}{{ messages[0].content.rstrip() }}\
{% else %}{{ 'You think (<think>), then answer.' }}{% endif %}{{ '\\n\\n<|im_end|>\\n' }}\
{% for m in messages %}{% if m.role == 'user' %}\
{{ '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}{% elif m.role == 'assistant' %}\
{{ '<|im_start|>assistant\\n' + m.content.lstrip('\\n') + '<|im_end|>\\n' }}{% endif %}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
_OPENCHAT = """{{ bos_token }}{% for m in messages %}\
{{ 'GPT4 Correct ' + m.role.title() + ': ' + m.content + '<|end_of_turn|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}"""

TEMPLATES = (
    ("llama-3, dated header", "llama-3", _LLAMA_3_DATED),
    ("llama-2, default system", "llama-2", _LLAMA_2_DEFAULT),
    ("smollm3", "smollm3", _SMOLLM3),
    ("openchat", "openchat", _OPENCHAT),
    (
        "phi-4",
        "phi-4",
        _roles(
            "'<|im_start|>' + m.role + '<|im_sep|>'",
            "'<|im_end|>'",
            "'<|im_start|>assistant<|im_sep|>'",
        ),
    ),
    (
        "solar",
        "solar",
        _roles(r"'### ' + m.role.title() + ':\n'", r"'\n\n'", r"'### Assistant:\n'"),
    ),
    (
        "granite",
        "granite",
        _roles(
            "'<|start_of_role|>' + m.role + '<|end_of_role|>'",
            r"'<|end_of_text|>\n'",
            "'<|start_of_role|>assistant<|end_of_role|>'",
        ),
    ),
    ("chatml", "chatml", _CHATML),
    ("chatml, default system", "chatml", _QWEN),
    ("chatml, indented file", "chatml", _INDENTED),
    ("llama-2", "llama-2", _LLAMA_2),
    ("llama-3", "llama-3", _LLAMA_3),
    ("mistral, no system", "mistral", _MISTRAL),
    ("mistral, system last", "mistral", _MISTRAL_LAST),
    (
        "phi-3",
        "phi-3",
        _roles(r"'<|' + m.role + '|>\n'", r"'<|end|>\n'", r"'<|assistant|>\n'"),
    ),
    ("phi-3, system left out", "phi-3", _PHI_3_OLD),
    ("gemma, no system", "gemma", _GEMMA),
    ("gemma, system in turn", "gemma", _GEMMA_3),
    (
        "zephyr",
        "zephyr",
        _roles(r"'<|' + m.role + '|>\n'", r"eos_token + '\n'", r"'<|assistant|>\n'"),
    ),
    ("alpaca", "alpaca", _ALPACA),
    ("alpaca, default system", "alpaca", _ALPACA_WITH_DEFAULT),
    ("vicuna", "vicuna", _VICUNA),
)
NAMES = tuple(name for name, _, _ in TEMPLATES)
BY_NAME = {name: template for name, _, template in TEMPLATES}
