"""Part 5: a chat template computes a text, in little time and memory, and reaches nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from toolchain.data import templates
from toolchain.data.chat import ChatTemplateError, render_chat
from toolchain.data.template_process import MOST_CHARACTERS
from toolchain.data.templates import BrokenTemplate

TALK = [{"role": "user", "content": "hello"}]
GOOD = "{% for m in messages %}{{ m.content }}{% endfor %}"
# Each ends the process, after its seconds of the CPU.
ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(40) }}",
    "a power": "{{ 7 ** (10 ** 9) }}",
    "a filter": "{{ range(99999) | map('string') | join | list | map('upper') | batch(9) "
    "| map('list') | list | length }}{% for a in range(99999) %}{{ range(99999) | sum }}"
    "{% endfor %}",
}
HUGE = {
    "a text": "{{ 'x' * 10 ** 11 }}",
    "doubling": "{% set ns = namespace(t='x') %}{% for a in range(60) %}"
    "{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}",
    "padding": "{{ 'x'.ljust(10 ** 11) }}",
    "a format": "{{ '%099999999999d' % 1 }}",
    "a list": "{{ [0] * 10 ** 11 }}",
    "too long": "{{ 'x' * 20000000 }}",
    "itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "nested": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
}
# The usual ways out of a sandbox, and into files.
ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch PWNED') }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__ }}",
    "{{ (''|attr('__class__'))|attr('__mro__') }}",
    "{{ ['__class__']|map('attr', messages)|list }}{{ messages|map(attribute='__class__')|first }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ '{a.__class__}'.format_map({'a': messages}) }}",
    "{{ ('{0.__class__}'|attr('format'))(messages) }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ self.__init__.__globals__ }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as x %}",
    "{% extends '/etc/passwd' %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{% set x = messages.pop() %}",
)
QUICK = ("a text", "itself", "too long")


def render(template: str) -> str:
    return render_chat(template, TALK, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("kind", [*ENDLESS, *HUGE])
@pytest.mark.timeout(900)
def test_a_template_that_takes_too_much_is_stopped(
    kind: str, whole: bool, proven: Callable[..., None]
) -> None:
    if not whole and kind not in QUICK:
        pytest.skip("in the whole suite")
    start = time.monotonic()
    with pytest.raises(ChatTemplateError):
        render({**ENDLESS, **HUGE}[kind])
    assert render(GOOD) == "hello"  # the next one is not harmed
    if kind in ENDLESS:
        again = time.process_time()
        with pytest.raises(BrokenTemplate):  # known by now
            render(ENDLESS[kind])
        assert time.process_time() - again < 1
    proven("5 no code from data", f"template: {kind}", 1, "templates", time.monotonic() - start)


def test_no_template_leaves_the_sandbox(tmp_path: Path, proven: Callable[..., None]) -> None:
    start, before = time.monotonic(), os.times()
    for template in ESCAPES:
        try:
            text = render(template)
        except ChatTemplateError:
            continue
        # What is not refused is undefined, and prints nothing of use.
        assert not any(word in text for word in ("<class", "<module", "root:", "uid=")), template
    assert not Path("PWNED").exists() and before
    seconds = time.monotonic() - start
    proven("5 no code from data", "ways out of the sandbox", len(ESCAPES), "templates", seconds)


def test_a_template_writes_no_file_and_has_little_memory() -> None:
    """The limits are those of the process that renders, as the kernel has them."""
    render(GOOD)
    process = templates._worker("own", os.getpid())._process
    assert process is not None and process.poll() is None
    limits = Path(f"/proc/{process.pid}/limits").read_text("ascii").splitlines()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits}
    assert soft["Max file size"] == "0" and soft["Max core file size"] == "0"
    assert int(soft["Max address space"]) < 3 << 30
    assert len(render("{{ 'x' * 1000000 }}")) == 1_000_000 < MOST_CHARACTERS
