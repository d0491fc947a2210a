"""Renders chat templates in a process of its own, which may hang, crash or fill its memory alone.

    python -m toolchain.data.template_process ENGINE FD

ENGINE is `own` or `transformers`; FD is this end of a socket. A message in is JSON (`template`,
`messages`, `values`, `now`), a message out is `+` and the text, `!` and the template's own reason,
or `?` and what is wrong with the template itself. A rendering that takes too long ends the process.

The `own` environment is that of `transformers.utils.chat_template_utils` (5.x): an immutable
sandbox, trimmed blocks, loop controls, `raise_exception`, `strftime_now`, JSON without HTML escapes
and the `{% generation %}` tag. `transformers` is that module itself.
"""

from __future__ import annotations

import contextlib
import functools
import json
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MOST_CHARACTERS = 1 << 24
RENDERED, REFUSED, INVALID = b"+", b"!", b"?"
_LIMIT_SEC = 5.0
_MEMORY_BYTES = 1 << 30
_MOST_REASON = 500

Render = Callable[[Mapping[str, Any]], str]


class InvalidTemplate(Exception):
    """The template is no Jinja."""


def main() -> None:
    engine: Render = {"own": _own, "transformers": _transformers}[sys.argv[1]]
    if engine is _transformers:
        import transformers.utils.chat_template_utils  # noqa: F401 (before the limits hold)
    else:
        import jinja2.sandbox  # noqa: F401
    line = Connection(int(sys.argv[2]))
    _limit()
    line.send_bytes(RENDERED)
    with contextlib.suppress(EOFError, OSError):
        while True:
            request = json.loads(line.recv_bytes())
            # The signal ends the process, which no template can keep it from. The time is that of
            # the CPU: a template cannot wait, and other work must not count against it.
            signal.setitimer(signal.ITIMER_PROF, _LIMIT_SEC)
            answer = _answer(engine, request)
            signal.setitimer(signal.ITIMER_PROF, 0)
            line.send_bytes(answer)


def _limit() -> None:
    """Little memory, no file written, no core dumped; Ctrl-C is for the process that asked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # where /proc or the limit does not exist
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        most = pages * resource.getpagesize() + _MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _answer(engine: Render, request: Mapping[str, Any]) -> bytes:
    import jinja2

    try:
        text = engine(request)
        if len(text) > MOST_CHARACTERS:
            return REFUSED + f"it writes more than {MOST_CHARACTERS} characters".encode()
        return RENDERED + text.encode("utf-8", "surrogatepass")
    except InvalidTemplate as error:
        return INVALID + _told(error)
    except MemoryError:
        return REFUSED + f"it takes more than {_MEMORY_BYTES >> 20} MiB of memory".encode()
    except RecursionError:
        return REFUSED + b"it is nested too deeply, or calls itself without end"
    except (jinja2.TemplateError, *_FAULTS) as error:
        return REFUSED + _told(error)


# What a template's arithmetic and calls can raise.
_FAULTS = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError)


def _told(error: Exception) -> bytes:
    text = str(error) or type(error).__name__
    return text[:_MOST_REASON].encode("utf-8", "replace")


def _own(request: Mapping[str, Any]) -> str:
    moment = request.get("now")
    clock = {"strftime_now": datetime.fromisoformat(moment).strftime} if moment else {}
    text: str = _compiled(request["template"]).render(
        messages=request["messages"], **{**clock, **request["values"]}
    )
    return text


def _transformers(request: Mapping[str, Any]) -> str:
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        rendered, _ = render_jinja_template(
            [request["messages"]], chat_template=request["template"], **request["values"]
        )
    except jinja2.TemplateSyntaxError as error:
        raise InvalidTemplate(error) from None
    return str(rendered[0])


@functools.lru_cache(maxsize=32)
def _compiled(template: str) -> Any:
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(Extension):  # type: ignore[misc]  # jinja2 is not followed by mypy
        """`{% generation %} … {% endgeneration %}` marks what is trained on; it renders as is."""

        tags = {"generation"}  # noqa: RUF012 (the name and kind that Jinja prescribes)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise InvalidTemplate(error) from None


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


if __name__ == "__main__":
    main()
