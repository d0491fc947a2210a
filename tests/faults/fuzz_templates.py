"""Seeded chat templates: real ones damaged, and hostile ones that would run for ever, write without
end, nest without end, or reach out of the sandbox."""

from __future__ import annotations

from random import Random

from fuzz_mutators import damaged

GOOD = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant"
    "\\n' }}{% endif %}",
    "{% set loop_messages = messages[1:] if messages[0]['role'] == 'system' else messages %}"
    "{{ bos_token }}{% for m in loop_messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0)"
    " %}{{ raise_exception('turns must alternate') }}{% endif %}[{{ m.role | upper }}] "
    "{{ m.content | trim }} {{ eos_token if m.role == 'assistant' }}{% endfor %}",
    "{%- macro show(x, n=0) -%}{{ x | tojson(indent=2) }}{%- endmacro -%}"
    "{{ strftime_now('%d %b') }}"
    "{% for m in messages %}{{ show(m) }}{% if loop.last %}{% break %}{% endif %}{% endfor %}"
    "{% generation %}{{ namespace(a=1).a }}{% endgeneration %}",
)
# Cheap to refuse.
_HOSTILE = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('/tmp/edgeforge-outside', 'w') }}",
    "{{ self._TemplateReference__context.environment.from_string('x') }}",
    "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{% extends 'x' %}",
    "{{ messages.append({}) }}", "{{ messages.clear() }}", "{{ lipsum(n=5) }}", "{{ cycler }}",
    "{{ '%s' | format(messages) }}", "{{ '{0.__class__}'.format(messages) }}",
    "{{ (1).__class__ }}", "{{ strftime_now('%' * 300) }}", "{{ strftime_now('\\ud800') }}",
    "{{ 1 / 0 }}", "{{ messages[99] }}", "{{ undefined.nothing }}", "{{ 2 ** 99999 }}",
    "{{ raise_exception('\\x1b[31m') }}", "{{ raise_exception(messages) }}", "{{ '\\ud800' }}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{{ " + "(" * 300 + "1" + ")" * 300 + " }}", "{% if 1 %}" * 150 + "{% endif %}" * 150,
    "{{ " + "-" * 3000 + "1 }}", "{{ " + "1+" * 5000 + "1 }}", "{{ 1" + "|int" * 3000 + " }}",
    "{{ [" * 400 + "] }}" * 400, "{#" * 1000, "{{ '" + "a" * 100_000, "\0", "{% raw %}",
)  # fmt: skip
# Each takes its seconds until it is stopped.
_ENDLESS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 9999999999 }}",
    "{% for i in range(9999) %}{{ 'a' * 999999 }}{% endfor %}",
    "{{ 9 ** 9 ** 9 ** 9 }}",
    "{{ messages * 999999999 }}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{{ '%999999999999d' | format(1) }}",
    "{{ 'x' | center(9999999999) }}",
    "{{ ('a' * 30) | replace('', 'b' * 999999) }}",
)  # fmt: skip
_PIECES = (
    "{{", "}}", "{%", "%}", "{%-", "-%}", "{#", "|", "|tojson", "|length", "|safe", "[0]", ".x",
    " for m in messages", " endfor ", " if ", " else ", " set x = ", "loop.index", "**", "//", "~",
    "messages", "namespace()", "range(9)", "'", '"', "\\", "\0", "\U0001f600",
)  # fmt: skip


def hostile_template(random: Random) -> str:
    """One case; one in 250 is of the kind that takes seconds."""
    kind = random.random()
    if kind < 0.004:
        return random.choice(_ENDLESS)
    if kind < 0.1:
        return random.choice(_HOSTILE)
    good = random.choice(GOOD)
    if kind < 0.4:
        return damaged(random, good.encode()).decode("utf-8", random.choice(("replace", "ignore")))
    text = list(good)
    for _ in range(random.choice((1, 2, 3))):
        place = random.randrange(len(text) + 1)
        if random.random() < 0.5:
            text[place:place] = random.choice(_PIECES)
        else:
            del text[place : place + random.choice((1, 2, 5, 20))]
    return "".join(text)
