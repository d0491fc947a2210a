"""Write a layout as the Go template that Ollama's TEMPLATE takes (text/template).

Go has no function that strips blanks, so stripping is done by templates that call themselves with
one character less. Characters that Ollama's Modelfile reader drops without a word (everything that
Go's `strconv.IsPrint` refuses, for example U+3000) are written as escapes.
"""

from __future__ import annotations

import json
from dataclasses import replace

from toolchain.export.ollama.families import Frame, Layout, Strip

PLAIN_PROMPT = "{{ .Prompt }}"
_LINE = "{{/*\n*/}}"  # a line break for the reader that is not part of the prompt
# What Python's str.strip() cuts off, by length in UTF-8: Go slices strings by bytes.
_BLANKS_1 = "\t\n\v\f\r\x1c\x1d\x1e\x1f "
_BLANKS_2 = "\x85\xa0"
_BLANKS_3 = "\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_IS_SYSTEM_FIRST = 'eq (index $.Messages 0).Role "system"'
_IS_FIRST_TURN = f"or (eq $i 0) (and (eq $i 1) ({_IS_SYSTEM_FIRST}))"
_IS_LAST = "eq (len (slice $.Messages $i)) 1"


def go_template(layout: Layout) -> str:
    """The Go template that renders what `layout.render` does."""
    user = _user(layout)
    body = (
        f"{_default_block(layout)}"
        f'{{{{ if eq .Role "system" }}}}{_system_block(layout)}'
        f'{{{{ else if eq .Role "user" }}}}{user}'
        f'{{{{ else if eq .Role "assistant" }}}}{_frame(layout.assistant)}'
        "{{ end }}"
    )
    used = [s for s in ("both", "start", "end", "newlines") if f'template "strip_{s}"' in body]
    asked = "{{ $asked := false }}" if layout.place == "first_user" else ""
    return (
        f"{_definitions(used)}{asked}{literal(layout.start)}"
        f"{{{{ range $i, $m := .Messages }}}}{body}{{{{ end }}}}{literal(layout.generation)}"
    )


def literal(text: str) -> str:
    """Text as it stands in a Go template: as is where it can be, else as a quoted Go string."""
    if not text:
        return ""
    plain = "{{" not in text and '"""' not in text and not text.endswith("{")
    if plain and all(c == "\n" or is_printable(c) for c in text):
        return text
    return f"{{{{ {_quoted(text)} }}}}"


def is_printable(character: str) -> bool:
    """Whether Ollama's Modelfile reader keeps the character (Go's `strconv.IsPrint`)."""
    return character == " " or (character.isprintable() and not character.isspace())


def _quoted(text: str) -> str:
    """A Go string literal in printable ASCII, and no three quotes in a row."""
    return json.dumps(text).replace('\\"', "\\x22") if text.isascii() else _quoted_unicode(text)


def _quoted_unicode(text: str) -> str:
    parts = []
    for character in text:
        if ord(character) < 128:
            parts.append(json.dumps(character)[1:-1].replace('\\"', "\\x22"))
        elif is_printable(character):
            parts.append(character)
        else:
            parts.append(f"\\U{ord(character):08x}")
    return '"' + "".join(parts) + '"'


def _frame(frame: Frame) -> str:
    return literal(frame.before) + _content(".Content", frame.strip) + literal(frame.after)


def _content(value: str, strip: Strip) -> str:
    if strip == "keep":
        return f"{{{{ {value} }}}}"
    return f'{{{{ template "strip_{strip}" {value} }}}}'


def _system_block(layout: Layout) -> str:
    return _frame(layout.system) if layout.place == "block" else ""


def _default_text(layout: Layout) -> str:
    if layout.default_system is None:
        return ""
    return literal(layout.system.before + layout.default_system + layout.system.after)


def _default_block(layout: Layout) -> str:
    default = _default_text(layout) if layout.place in ("block", "left_out") else ""
    if not default:
        return ""
    absent = "" if layout.place == "left_out" else ' (ne .Role "system")'
    return f"{{{{ if and (eq $i 0){absent} }}}}{default}{{{{ end }}}}"


def _user(layout: Layout) -> str:
    """A user turn; where it hosts the system message, with that before the content."""
    if layout.place not in ("first_user", "last_user"):
        return _user_before(layout) + _frame(replace(layout.user, before=""))
    system = layout.system
    carried = (
        literal(system.before)
        + _content("(index $.Messages 0).Content", system.strip)
        + literal(system.after)
    )
    own = _content(".Content", layout.user.strip)
    after_system = _content(".Content", layout.strip_after_system)
    default = _default_text(layout)
    inner = (
        f"{{{{ if not ({_hosts(layout)}) }}}}{own}"
        f"{{{{ else if {_IS_SYSTEM_FIRST} }}}}{carried}{after_system}"
        f"{{{{ else }}}}{default}{after_system if default else own}{{{{ end }}}}"
    )
    done = "{{ $asked = true }}" if layout.place == "first_user" else ""
    return _user_before(layout) + inner + literal(layout.user.after) + done


def _user_before(layout: Layout) -> str:
    before, first = literal(layout.user.before), layout.first_user_before
    if first is None:
        return before
    return f"{{{{ if {_IS_FIRST_TURN} }}}}{literal(first)}{{{{ else }}}}{before}{{{{ end }}}}"


def _hosts(layout: Layout) -> str:
    return _IS_LAST if layout.place == "last_user" else "not $asked"


def _definitions(used: list[str]) -> str:
    """The stripping templates that the body calls, each after those that it calls itself."""
    first = '(printf "%.1s" .)'
    cut_first = f"(slice . (len {first}))"
    starts_blank = f"eq {first} {_list(_BLANKS_1 + _BLANKS_2 + _BLANKS_3)}"
    end = (
        f"{{{{ if . }}}}{_end_rule(1, _BLANKS_1, 'if')}{_end_rule(2, _BLANKS_2, 'else if')}"
        f"{_end_rule(3, _BLANKS_3, 'else if')}{{{{ else }}}}{{{{ . }}}}{{{{ end }}}}{{{{ end }}}}"
    )
    texts = {
        "end": end,
        "start": _start_rule("start", starts_blank, cut_first, "{{ . }}"),
        "both": _start_rule("both", starts_blank, cut_first, '{{ template "strip_end" . }}'),
        "newlines": _start_rule("newlines", f'eq {first} "\\n"', cut_first, "{{ . }}"),
    }
    names = [*(["end"] if "both" in used and "end" not in used else []), *used]
    defined = (f'{{{{ define "strip_{n}" }}}}{texts[n]}{{{{ end }}}}{_LINE}' for n in names)
    return "".join(defined)


def _start_rule(name: str, condition: str, rest: str, otherwise: str) -> str:
    return (
        f'{{{{ if . }}}}{{{{ if {condition} }}}}{{{{ template "strip_{name}" {rest} }}}}'
        f"{{{{ else }}}}{otherwise}{{{{ end }}}}{{{{ end }}}}"
    )


def _end_rule(size: int, blanks: str, keyword: str) -> str:
    """One branch: the last `size` bytes are a blank, so go on without them."""
    kept = f"(len (slice . {size}))"
    test = f"and (ge (len .) {size}) (eq (slice . {kept}) {_list(blanks)})"
    return f'{{{{ {keyword} {test} }}}}{{{{ template "strip_end" (slice . 0 {kept}) }}}}'


def _list(blanks: str) -> str:
    return " ".join(f'"\\u{ord(blank):04x}"' for blank in blanks)
