"""Write the Modelfiles of a finished GGUF.

`Modelfile` carries a Go TEMPLATE proven to render as the checkpoint's Jinja template, so it works
on every version of Ollama. `Modelfile.jinja` has no TEMPLATE: Ollama 0.30 and newer then use the
Jinja template inside the GGUF itself, tools and all. Where no chat family is proven, `Modelfile` is
that one too, says so, and the result gives the reason. A base model (no chat template) gets
`{{ .Prompt }}`: the text goes to the model as it is.

Ollama's own defaults sample (temperature 0.8, repeat_penalty 1.1) where Hugging Face's
`generate` is greedy, so both are always written.
Format: https://github.com/ollama/ollama/blob/main/docs/modelfile.mdx
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import write_text
from toolchain.export.ollama.chat_family import ChatFamilyError, Match, match_family
from toolchain.export.ollama.go_template import PLAIN_PROMPT, is_printable

MODELFILE = "Modelfile"
MODELFILE_JINJA = "Modelfile.jinja"
NEEDS_JINJA = (
    "# Needs Ollama 0.30 or newer: the chat template is the Jinja template inside the GGUF."
)

Scalar = bool | int | float | str
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")
_THREE_QUOTES = '"""'


@dataclass(frozen=True)
class ModelfileSettings:
    """What a Modelfile says about the model and the device.

    `eos_tokens`: the texts of all end tokens. `engine_adds_bos`: the GGUF's
    `tokenizer.ggml.add_bos_token`. `generation`: the checkpoint's `generation_config.json`.
    `num_gpu`: layers on the GPU, -1 for as many as fit. `parameters`: further PARAMETERs of the
    device; they win over the generation config.
    """

    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    eos_tokens: Sequence[str] = ()
    engine_adds_bos: bool = True
    generation: Mapping[str, Any] = field(default_factory=dict)
    num_ctx: int | None = None
    num_thread: int | None = None
    num_gpu: int | None = None
    seed: int | None = None
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    system: str | None = None
    license_text: str | None = None


@dataclass(frozen=True)
class ModelfileResult:
    """What was written. `refusal` says why there is no Go TEMPLATE (None: there is one)."""

    files: tuple[str, ...]
    match: Match | None
    refusal: str | None
    stops: tuple[str, ...]
    parameters: Mapping[str, Scalar]
    notes: tuple[str, ...] = ()


def write_modelfiles(
    folder: Path,
    gguf_name: str,
    settings: ModelfileSettings,
    *,
    adapter_name: str | None = None,
) -> ModelfileResult:
    """Write the Modelfiles into `folder`, for the GGUF `gguf_name` beside them, and a LoRA adapter
    (GGUF) that is not merged.

    Raises `UserError` when a name or a text cannot be carried by a Modelfile.
    """
    for name in filter(None, (gguf_name, adapter_name)):
        if not _FILE_NAME.match(name):
            raise UserError(
                f"'{name}' is no file name for a Modelfile",
                "use letters, digits, '.', '_' and '-'",
            )
    match, refusal = _matched(settings)
    stops = _stops(settings, match)
    parameters = _parameters(settings)
    head = f"FROM ./{gguf_name}" + (f"\nADAPTER ./{adapter_name}" if adapter_name else "")
    tail = _tail(settings, stops, parameters, settings.system)
    jinja = "\n".join([NEEDS_JINJA, head, *tail, ""])
    texts = {} if settings.chat_template is None else {MODELFILE_JINJA: jinja}
    if refusal is None:
        template = match.go_template if match else PLAIN_PROMPT
        system = settings.system or _default_system(match)
        tail = _tail(settings, stops, parameters, system)
        texts[MODELFILE] = "\n".join([head, f"TEMPLATE {_quoted(template, 'TEMPLATE')}", *tail, ""])
    else:
        texts[MODELFILE] = jinja
    for name, text in texts.items():
        write_text(folder / name, text)
    notes = match.notes if match else ()
    return ModelfileResult(tuple(sorted(texts)), match, refusal, stops, parameters, notes)


def needs_jinja(modelfile: Path) -> bool:
    """Whether this Modelfile relies on the Jinja template inside the GGUF."""
    return modelfile.read_bytes().startswith(NEEDS_JINJA.encode())


def generation_parameters(generation: Mapping[str, Any]) -> dict[str, Scalar]:
    """PARAMETERs that make Ollama choose tokens as `transformers.generate` does.

    Absent keys mean what they mean there: greedy, no penalty, and when sampling temperature 1,
    top_k 50, top_p 1 (`transformers.GenerationConfig`).
    """

    def value(name: str, default: Scalar) -> Scalar:
        given = generation.get(name)
        return given if isinstance(given, bool | int | float) else default

    parameters: dict[str, Scalar] = {"temperature": 0}
    if value("do_sample", False):
        parameters = {
            "temperature": value("temperature", 1.0),
            "top_k": value("top_k", 50),
            "top_p": value("top_p", 1.0),
            "min_p": value("min_p", 0.0),
        }
    penalty = value("repetition_penalty", 1.0)
    parameters["repeat_penalty"] = penalty
    if penalty != 1.0:
        parameters["repeat_last_n"] = -1  # the whole context, as there
    limit = value("max_new_tokens", 0)
    return {**parameters, **({"num_predict": limit} if limit else {})}


def _matched(settings: ModelfileSettings) -> tuple[Match | None, str | None]:
    if settings.chat_template is None:
        return None, None
    try:
        match = match_family(
            settings.chat_template,
            bos_token=settings.bos_token,
            eos_token=settings.eos_token,
            engine_adds_bos=settings.engine_adds_bos,
        )
    except ChatFamilyError as error:
        return None, str(error)
    return match, None


def _stops(settings: ModelfileSettings, match: Match | None) -> tuple[str, ...]:
    """End tokens of the model, then what opens the next turn in its family, each once."""
    own = [*settings.eos_tokens, *([settings.eos_token] if settings.eos_token else [])]
    return tuple(dict.fromkeys([*own, *(match.stops if match else ())]))


def _parameters(settings: ModelfileSettings) -> dict[str, Scalar]:
    device = {
        "num_ctx": settings.num_ctx,
        "num_thread": settings.num_thread,
        "num_gpu": settings.num_gpu,
        "seed": settings.seed,
    }
    known = {name: number for name, number in device.items() if number is not None}
    parameters = {**known, **generation_parameters(settings.generation), **settings.parameters}
    for name in parameters:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise UserError(f"'{name}' is no name of an Ollama parameter")
    return parameters


def _tail(
    settings: ModelfileSettings,
    stops: Sequence[str],
    parameters: Mapping[str, Scalar],
    system: str | None,
) -> list[str]:
    lines = [f"PARAMETER {name} {_value(value)}" for name, value in parameters.items()]
    lines += [f"PARAMETER stop {_quoted(stop, 'a stop string')}" for stop in stops]
    if system:
        lines.append(f"SYSTEM {_quoted(system, 'the system message')}")
    if settings.license_text:
        # Only characters that leave the wording as it is: form feeds, a run of quotes.
        kept = "".join(c for c in settings.license_text if _is_carried(c))
        lines.append(f"LICENSE {_quoted(kept.replace(_THREE_QUOTES, chr(39) * 3), 'LICENSE')}")
    return lines


def _default_system(match: Match | None) -> str | None:
    """The template's default system message, where SYSTEM can carry it and renders the same.

    TEMPLATE has it too, for requests that come without one; SYSTEM is what `ollama show` tells.
    """
    system = match.default_system if match else None
    if match is None or not system or not all(map(_is_carried, system)):
        return None
    if any(line.rstrip().endswith(_THREE_QUOTES) for line in system.splitlines()):
        return None
    user = {"role": "user", "content": "Hi"}
    with_system = match.render([{"role": "system", "content": system}, user])
    return system if with_system == match.render([user]) else None


def _value(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _quoted(value, "a parameter") if isinstance(value, str) else str(value)


def _quoted(text: str, what: str) -> str:
    """Text in quotes as Ollama's reader takes it: nothing is escaped, the last quotes end it.

    Raises `UserError` for what the reader would drop without a word (characters that do not print)
    and for a line that would end the text early.
    """
    dropped = next((c for c in text if not _is_carried(c)), None)
    if dropped is not None:
        raise UserError(
            f"{what} has a character that Ollama's Modelfile cannot carry: {dropped!r}",
            "take it out",
        )
    if any(line.rstrip().endswith(_THREE_QUOTES) for line in text.splitlines()):
        raise UserError(
            f'{what} has a line that ends with """, which ends a text in a Modelfile', "reword it"
        )
    return f'"{text}"' if "\n" not in text and '"' not in text else f'"""{text}"""'


def _is_carried(character: str) -> bool:
    return character in "\n\t" or is_printable(character)
