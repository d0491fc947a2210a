"""What `ollama show` and `ollama ps` say of a model, held against its bundle and Modelfile.

checks = shown_checks(client, name, facts)
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from typing import Any

from common.files import sha256_file
from runtimes.gguf_file import read_tensor_types
from runtimes.ollama import Client
from toolchain.export.ollama.checks import FAILED, NOTED, PASSED, Check, Facts, check, quoted_value

_PARAMETER = re.compile(r'^PARAMETER (\w+) ("""[\s\S]*?"""|".*?"|\S.*)$', re.MULTILINE)
_DIGEST = re.compile(r"sha256[-:]([0-9a-f]{64})")
# Ollama names some types in its own way, and takes an F32 file's type for "unknown".
_UNNAMED = "unknown"


def shown_checks(client: Client, name: str, facts: Facts) -> list[Check]:
    """File, quantization, context, parameters, template, system and adapter as asked for."""
    show = client.show(name)
    checks = [
        files_check(show, facts),
        quantization_check(show, client.tensors(name), facts),
        context_check(show, facts),
        parameters_check(show, facts.modelfile),
    ]
    for instruction in ("TEMPLATE", "SYSTEM"):
        asked = quoted_value(facts.modelfile, instruction)
        if asked is not None:
            same = show.get(instruction.lower()) == asked
            note = "as asked for" if same else f"another {instruction}"
            checks.append(check(instruction.lower(), same, note))
    return checks


def files_check(show: dict[str, Any], facts: Facts) -> Check:
    """Ollama holds the bundle's very files: `show` names its own copies by digest."""
    modelfile = str(show.get("modelfile", ""))
    lines = re.findall(r"^(?:FROM|ADAPTER) (.*)$", modelfile, re.MULTILINE)
    held = {digest for line in lines for digest in _DIGEST.findall(line)}
    wanted = [facts.gguf, *([facts.adapter] if facts.adapter else [])]
    if not held:
        return Check("files", NOTED, "Ollama does not show which file it holds")
    other = [path.name for path in wanted if sha256_file(path) not in held]
    note = f"not the bundle's {', '.join(other)}" if other else "the bundle's, by digest"
    return check("files", not other, note)


def quantization_check(show: dict[str, Any], tensors: list[dict[str, Any]], facts: Facts) -> Check:
    """The quantization that Ollama shows against what the file states, tensor by tensor."""
    from gguf import LlamaFileType

    level = str((show.get("details") or {}).get("quantization_level") or _UNNAMED)
    stated = facts.metadata.get("general.file_type")
    named = "" if stated is None else LlamaFileType(int(stated)).name.removeprefix("MOSTLY_")
    named = named.removeprefix("ALL_")
    if level != _UNNAMED and named and level != named:
        return Check("quantization", FAILED, f"{level}, the file states {named}")
    found = Counter(str(tensor.get("type")) for tensor in tensors)
    wanted = Counter(tensor.type for tensor in read_tensor_types(facts.gguf))
    if not found:
        return Check("quantization", PASSED if level == named else NOTED, f"Ollama shows '{level}'")
    note = f"{named or level}: " + ", ".join(f"{n} {kind}" for kind, n in sorted(wanted.items()))
    if found != wanted:
        there = ", ".join(f"{number} {kind}" for kind, number in sorted(found.items()))
        return Check("quantization", FAILED, f"{note}; Ollama reads {there}")
    return Check("quantization", PASSED, f"{note} tensors")


def context_check(show: dict[str, Any], facts: Facts) -> Check:
    """The context length that Ollama reads from the file, and the one asked for within it."""
    architecture = facts.metadata.get("general.architecture")
    key = f"{architecture}.context_length"
    trained, found = facts.metadata.get(key), (show.get("model_info") or {}).get(key)
    asked = asked_context(facts.modelfile)
    if trained is None or found is None:
        return Check("context", NOTED, "no context length is stated")
    fits = asked is None or asked <= int(trained)
    same = int(found) == int(trained)
    note = f"{asked or 'default'} of the model's {found} tokens"
    if not same:
        note = f"{found}, the file states {trained}"
    return check("context", same and fits, note)


def loaded_check(client: Client, name: str, facts: Facts) -> Check:
    """The context with which Ollama has really loaded the model (older versions do not tell)."""
    asked = asked_context(facts.modelfile)
    rows = [row for row in client.loaded() if str(row.get("name", "")).startswith(name)]
    found = rows[0].get("context_length") if rows else None
    if not found or asked is None:
        return Check("loaded context", NOTED, "Ollama does not tell")
    return check("loaded context", int(found) == asked, f"{found} tokens, asked for {asked}")


def parameters_check(show: dict[str, Any], modelfile: str) -> Check:
    """Every PARAMETER line of the Modelfile is shown, and no other."""
    asked = [(name, _asked_value(value)) for name, value in _asked(modelfile)]
    lines = [line.split(None, 1) for line in str(show.get("parameters", "")).split("\n")]
    have = [(name, _shown_value(value)) for name, value in (one for one in lines if len(one) == 2)]
    missing = [f"{name} {value} is missing" for name, value in asked if (name, value) not in have]
    more = [
        f"{name} {value} is not asked for" for name, value in have if (name, value) not in asked
    ]
    note = "; ".join(missing + more) or f"{len(asked)} as asked for"
    return check("parameters", not missing + more, note)


def asked_context(modelfile: str) -> int | None:
    """The Modelfile's num_ctx."""
    values = [value for name, value in _asked(modelfile) if name == "num_ctx"]
    return int(values[0]) if values else None


def _asked(modelfile: str) -> list[tuple[str, str]]:
    before_texts = re.split(r"^(?:SYSTEM|LICENSE) ", modelfile, maxsplit=1, flags=re.MULTILINE)[0]
    return _PARAMETER.findall(before_texts)


def _asked_value(value: str) -> str | float:
    """A PARAMETER's value as the Modelfile means it: without quotes, a number as one."""
    for quotes in ('"""', '"'):
        if len(value) >= 2 * len(quotes) and value.startswith(quotes) and value.endswith(quotes):
            return value[len(quotes) : -len(quotes)]
    return _number(value)


def _shown_value(value: str) -> str | float:
    """A value as `ollama show` prints it: strings quoted as in Go."""
    text = value.strip()
    try:  # Go's escapes are Python's
        return str(ast.literal_eval(text)) if text.startswith('"') else _number(text)
    except (ValueError, SyntaxError):
        return text


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
