"""A check of a bundle in Ollama, and the facts of the bundle that it is held against.

facts = read_facts(bundle, bundle / "Modelfile")
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_object
from runtimes.gguf_file import read_metadata
from toolchain.data.chat import render_chat
from toolchain.data.chat_format import ChatFormat, chat_format
from toolchain.trust.sums import is_inside

PROMPTS, PROFILE, TOKENIZER = "prompts.jsonl", "profile.json", "tokenizer"
PASSED, FAILED, NOTED = "passed", "failed", "noted"
_ADDS_BOS = "tokenizer.ggml.add_bos_token"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `noted` is for figures that decide nothing."""

    name: str
    status: str
    note: str

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def check(name: str, passed: bool, note: str) -> Check:
    """A check that decides."""
    return Check(name, PASSED if passed else FAILED, note)


@dataclass(frozen=True)
class Facts:
    """A bundle as Ollama's answers are held against it. `modelfile` is the text of the Modelfile
    used, `rows` the recorded prompts, `form` the chat format (None: a base model), `system` the
    Modelfile's SYSTEM, `min_equal` the profile's share of answers that must come out equal."""

    bundle: Path
    modelfile: str
    gguf: Path
    adapter: Path | None
    metadata: Mapping[str, Any]
    rows: tuple[dict[str, Any], ...]
    form: ChatFormat | None
    system: str | None
    min_equal: float | None

    @property
    def bos(self) -> str:
        """The BOS text that the engine puts before every prompt by itself ('' for none)."""
        return self._bos_text if self.metadata.get(_ADDS_BOS, False) else ""

    @property
    def _bos_text(self) -> str:
        return (self.form.bos_token if self.form else _bos_token(self.bundle)) or ""

    def expected_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """What Hugging Face renders of a conversation to which Ollama has put the Modelfile's
        SYSTEM, without the BOS that the engine adds. Raises `ChatTemplateError`."""
        if self.form is None:
            return messages[-1]["content"]
        if self.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        text = render_chat(
            self.form.template,
            [dict(one) for one in messages],
            bos_token=self.form.bos_token,
            eos_token=self.form.eos_token,
            now=datetime.now(),
        )
        return text.removeprefix(self.bos)


def read_facts(bundle: Path, modelfile: Path) -> Facts:
    """Read a finished bundle. Raises `UserError` when a part is missing or damaged."""
    try:
        text = modelfile.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{modelfile} cannot be read: {error}", "build the bundle again") from None
    gguf = bundle / required_file(text, "FROM")
    adapter = required_file(text, "ADAPTER") if _named(text, "ADAPTER") else None
    profile = read_object(bundle / PROFILE) if (bundle / PROFILE).is_file() else {}
    thresholds = profile.get("thresholds")
    return Facts(
        bundle=bundle,
        modelfile=text,
        gguf=gguf,
        adapter=bundle / adapter if adapter else None,
        metadata=read_metadata(gguf),
        rows=_rows(bundle / PROMPTS),
        form=_form(bundle),
        system=quoted_value(text, "SYSTEM"),
        min_equal=thresholds.get("min_answers_equal") if isinstance(thresholds, dict) else None,
    )


def required_file(modelfile: str, instruction: str) -> str:
    """The file of the bundle that an instruction of the Modelfile names."""
    found = _named(modelfile, instruction)
    if found is None:
        raise UserError(f"the bundle's Modelfile has no {instruction}", "build the bundle again")
    if not is_inside(found[1]):
        raise UserError(
            f"the bundle's Modelfile names no file of the bundle: {found[1]!r:.200}",
            "build the bundle again",
        )
    return found[1]


def _named(modelfile: str, instruction: str) -> re.Match[str] | None:
    return re.search(rf"^{instruction} \./(\S+)$", modelfile, re.MULTILINE)


def quoted_value(modelfile: str, instruction: str) -> str | None:
    """The text in quotes after an instruction of a Modelfile that we wrote."""
    found = re.search(rf'^{instruction} (?:"""(.*?)"""|"([^"\n]*)")$', modelfile, re.M | re.S)
    if found is None:
        return None
    return found[1] if found[1] is not None else found[2]


def _form(bundle: Path) -> ChatFormat | None:
    return chat_format(bundle / TOKENIZER)


def _bos_token(bundle: Path) -> str | None:
    path = bundle / TOKENIZER / "tokenizer_config.json"
    token = read_object(path).get("bos_token") if path.is_file() else None
    text = token.get("content") if isinstance(token, dict) else token
    return str(text) if text else None


def _rows(path: Path) -> tuple[dict[str, Any], ...]:
    """The recorded prompts that have an answer."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        needed = ("prompt", "token_ids", "expected")
        found = tuple(
            {"messages": None, "stopped": True, **row, **{k: row[k] for k in needed}}
            for row in rows
        )
        if not found:
            raise ValueError("it is empty")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} has no recorded prompt that can be read ({error})", "build the bundle again"
        ) from None
    return found
