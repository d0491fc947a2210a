"""Prove a bundle on a real Ollama: created, shown as asked for, rendered and answered as recorded.

checks = prove(client, "edgeforge-demo-laptop", bundle)
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json
from runtimes.ollama import JINJA_VERSION, Client
from toolchain.export.ollama.modelfile import MODELFILE, MODELFILE_JINJA, needs_jinja

PROMPTS = "prompts.jsonl"
TOKENIZER_CONFIG = "tokenizer_config.json"
PASSED, FAILED, NOTED = "passed", "failed", "noted"
# Ollama has a llama.cpp of its own revision, whose kernels may round differently: an answer may
# part from the recorded one after a while. As in the smoke test, half of it must agree.
MIN_AGREEING_PREFIX = 0.5
_PARAMETER = re.compile(r'^PARAMETER (\w+) ("""[\s\S]*?"""|".*?"|\S.*)$', re.MULTILINE)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `noted` is for figures that decide nothing."""

    name: str
    status: str
    note: str

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def choose_modelfile(bundle: Path, version: Sequence[int]) -> Path:
    """The Modelfile for this version of Ollama: Jinja from 0.30 on, a Go TEMPLATE before.

    Raises `UserError` when the bundle has none, or only one that needs a newer version.
    """
    plain, jinja = bundle / MODELFILE, bundle / MODELFILE_JINJA
    if not plain.is_file():
        raise UserError(
            f"{bundle} is no finished bundle: it has no {MODELFILE}",
            "build it first, with the same target, model and out",
        )
    if tuple(version) >= JINJA_VERSION:
        return jinja if jinja.is_file() else plain
    if needs_jinja(plain):
        raise UserError(
            f"this model's chat template needs Ollama 0.30 or newer, not {shown(version)}",
            "update Ollama; the bundle's report says why no older TEMPLATE renders the same",
        )
    return plain


def prove(client: Client, name: str, bundle: Path, modelfile: Path) -> list[Check]:
    """Create the model and check what Ollama shows of it, one prompt, and its answer."""
    client.create(name, modelfile)
    checks = [Check("create", PASSED, f"{name} from {modelfile.name}")]
    text = modelfile.read_text(encoding="utf-8")
    shown_model = client.show(name)
    checks.append(quantization_check(shown_model, bundle / _gguf_name(text)))
    checks += shown_checks(shown_model, text)
    row = first_prompt(bundle)
    if row["messages"]:
        checks.append(rendered_check(client, name, row, bos_token(bundle)))
    return checks + answer_checks(client, name, row)


def quantization_check(show: dict[str, Any], gguf_file: Path) -> Check:
    """The quantization that Ollama shows against the one that the file states.

    Ollama knows no name for F32 and for some types ("unknown"): nothing is decided then.
    """
    from gguf import GGUFReader, LlamaFileType

    found = str((show.get("details") or {}).get("quantization_level") or "unknown")
    stated = GGUFReader(gguf_file).get_field("general.file_type")
    if found == "unknown" or stated is None:
        return Check("quantization", NOTED, f"Ollama shows '{found}'")
    wanted = LlamaFileType(int(stated.contents())).name.removeprefix("MOSTLY_")
    return _check("quantization", found == wanted, f"{found}, the file states {wanted}")


def shown_checks(show: dict[str, Any], modelfile: str) -> list[Check]:
    """What `ollama show` says against what the Modelfile asked for."""
    checks = []
    before_texts = re.split(r"^(?:SYSTEM|LICENSE) ", modelfile, maxsplit=1, flags=re.MULTILINE)[0]
    asked = _PARAMETER.findall(before_texts)
    lines = [line.split(None, 1) for line in str(show.get("parameters", "")).splitlines()]
    have = {(name, _shown_value(value)) for name, value in (one for one in lines if len(one) == 2)}
    missing = [
        f"{name} {value}" for name, value in asked if (name, _asked_value(value)) not in have
    ]
    checks.append(
        _check("parameters", not missing, ", ".join(missing) or f"{len(asked)} as asked for")
    )
    template = re.search(r'^TEMPLATE (?:"""(.*?)"""|"([^"\n]*)")$', modelfile, re.M | re.S)
    if template:
        same = show.get("template") == (template[1] if template[1] is not None else template[2])
        checks.append(_check("template", same, "as asked for" if same else "another TEMPLATE"))
    system = re.search(r'^SYSTEM (?:"""(.*?)"""|"([^"\n]*)")$', modelfile, re.M | re.S)
    if system:
        same = show.get("system") == (system[1] if system[1] is not None else system[2])
        checks.append(_check("system", same, "as asked for" if same else "another SYSTEM"))
    return checks


def rendered_check(client: Client, name: str, row: dict[str, Any], bos: str) -> Check:
    """The prompt as Ollama renders it against Hugging Face's; the engine adds the leading BOS."""
    expected = str(row["prompt"]).removeprefix(bos)
    got = client.render(name, row["messages"]).removeprefix(bos)
    same = expected == got
    note = f"{len(got)} characters, equal" if same else f"{got!r}, expected {expected!r}"
    return _check("rendered prompt", same, note)


def answer_checks(client: Client, name: str, row: dict[str, Any]) -> list[Check]:
    """The greedy answer: prompt tokens, end, and text against what llama.cpp gave at build time."""
    limit = int(row.get("max_new_tokens") or 256)
    options = {"temperature": 0, "seed": 0, "num_predict": limit}
    if row["messages"]:
        reply = client.chat(name, row["messages"], options=options)
        text = str((reply.get("message") or {}).get("content", ""))
    else:
        reply = client.generate(name, str(row["prompt"]), options=options)
        text = str(reply.get("response", ""))
    count, expected_count = reply.get("prompt_eval_count"), len(row["token_ids"])
    reason = str(reply.get("done_reason"))
    stops = _check("answer stops", reason == "stop", f"done_reason {reason}")
    if not row.get("stopped", True):  # no recorded prompt ended by itself, so neither must this
        stops = replace(stops, status=NOTED)
    same_count = _check(
        "prompt tokens", count == expected_count, f"{count}, expected {expected_count}"
    )
    if same_count.status == FAILED and client.version() >= JINJA_VERSION:
        same_count = replace(same_count, status=NOTED)  # leaves out what its cache held
    checks = [
        same_count,
        stops,
    ]
    expected = str(row["expected"])
    if text.strip() == expected.strip():
        return [*checks, _check("greedy answer", True, f"equal, {len(text)} characters")]
    agree = _agreeing(text.strip(), expected.strip())
    status = NOTED if agree >= MIN_AGREEING_PREFIX else FAILED
    note = f"agrees over {agree:.0%}: {text[:200]!r}, recorded {expected[:200]!r}"
    return [*checks, Check("greedy answer", status, note)]


def first_prompt(bundle: Path) -> dict[str, Any]:
    """The first recorded prompt that ends by itself, else the first one."""
    path = bundle / PROMPTS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        ending = [row for row in rows if row.get("stopped", True)]
        row: dict[str, Any] = (ending or rows)[0]
        needed = {key: row[key] for key in ("prompt", "token_ids", "expected")}
        return {"messages": [], **row, **needed}
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} has no recorded prompt that can be read ({error})", "build the bundle again"
        ) from None


def bos_token(bundle: Path) -> str:
    """The text of the tokenizer's BOS ('' when it has none)."""
    for path in sorted(bundle.rglob(TOKENIZER_CONFIG)):
        token = read_json(path).get("bos_token")
        text = token.get("content") if isinstance(token, dict) else token
        return str(text or "")
    return ""


def shown(version: Sequence[int]) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))


def _gguf_name(modelfile: str) -> str:
    """The file after FROM."""
    found = re.search(r"^FROM \./(\S+)$", modelfile, re.MULTILINE)
    if found is None:
        raise UserError("the bundle's Modelfile has no FROM", "build the bundle again")
    return found[1]


def _asked_value(value: str) -> str | float:
    """A PARAMETER's value as the Modelfile means it: without quotes, a number as one."""
    for quotes in ('"""', '"'):
        if len(value) >= 2 * len(quotes) and value.startswith(quotes) and value.endswith(quotes):
            return value[len(quotes) : -len(quotes)]
    return _number(value)


def _shown_value(value: str) -> str | float:
    """A value as `ollama show` prints it: strings quoted as in Go."""
    text = value.strip()
    try:
        return str(json.loads(text)) if text.startswith('"') else _number(text)
    except ValueError:
        return text


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _agreeing(one: str, other: str) -> float:
    """Share of the longer text over which both agree from the start."""
    longer = max(len(one), len(other))
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return (min(len(one), len(other)) if same is None else same) / longer if longer else 1.0


def _check(name: str, passed: bool, note: str) -> Check:
    return Check(name, PASSED if passed else FAILED, note)
