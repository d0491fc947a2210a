"""The data file and the page: one list of what works, for `edgeforge check` and for readers."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tiny_families import (  # type: ignore[import-not-found]
    DECODER_FAMILIES,
    ENCODER_FAMILIES,
    ROPES,
    TOKENIZERS,
)

from common.files import read_json
from matrix.place import Place
from matrix.runner import FAULT, LIMITED, REFUSED, SKIPPED, WORKS, Result
from toolchain.check.measured import CELLS

_PARTS = {cell: part for part, cells in CELLS.items() for cell in cells}
_DIGITS = 4
_GROUPS = {
    "Training and compression": (
        "load", "finetune", "merge", "distill", "prune layers", "prune groups", "prune ffn",
        "prune hidden", "prune-vocab", "sparsify",
    ),
    "Exports": (
        "gguf", "F16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0", "onnx", "onnx-int8", "ollama",
    ),
}  # fmt: skip
_HEADS = {
    "finetune": "LoRA", "prune layers": "layers", "prune groups": "groups", "prune ffn": "FFN",
    "prune hidden": "hidden", "prune-vocab": "vocab", "gguf": "GGUF parity",
    "onnx": "ONNX parity", "onnx-int8": "INT8", "ollama": "Ollama",
}  # fmt: skip
_WORDS = {WORKS: "works", LIMITED: "limited", REFUSED: "refused", FAULT: "fault",
          SKIPPED: "not tried"}  # fmt: skip


def data(
    places: Sequence[Place],
    results: Sequence[Result],
    versions: Mapping[str, str],
    templates: Mapping[str, Any],
) -> dict[str, Any]:
    """What was measured, as plain values."""
    by_family: dict[str, dict[str, Result]] = {}
    for result in results:
        by_family.setdefault(result.family, {})[result.cell] = result
    return {
        "date": datetime.date.today().isoformat(),
        "versions": dict(versions),
        "templates": dict(templates),
        "families": {
            place.family: _family(place, by_family[place.family])
            for place in places
            if place.family in by_family and place.family not in TOKENIZERS
        },
        "tokenizers": {
            place.family: _family(place, by_family[place.family])
            for place in places
            if place.family in by_family and place.family in TOKENIZERS
        },
    }


def _family(place: Place, cells: Mapping[str, Result]) -> dict[str, Any]:
    row, config = place.row, read_json(place.checkpoint / "config.json")
    return {
        "title": row.title,
        "structure": row.structure,
        "model_types": [config["model_type"]],
        "architectures": config.get("architectures", []),
        "rope": row.rope,
        "tied": bool(config.get("tie_word_embeddings", False)),
        "tokenizer": row.tokenizer,
        "cells": {name: _cell(place, result) for name, result in cells.items()},
    }


def _cell(place: Place, result: Result) -> dict[str, Any]:
    found: dict[str, Any] = {"verdict": result.verdict}
    if result.details:
        found["details"] = [" ".join(line.split()) for line in result.details]
    if result.mend:
        found["mend"] = result.mend
    if result.figures:
        found["figures"] = {name: _short(value) for name, value in result.figures.items()}
    if result.verdict in (REFUSED, FAULT):
        found["foreseen"] = foreseen(place, result.cell)
    return found


def foreseen(place: Place, cell: str) -> bool:
    """Whether the part's own question says so before any work, without what was measured."""
    from common.errors import UserError
    from toolchain.check.parts import asked_alone
    from toolchain.checkpoint.inspect import inspect

    part = _PARTS[cell]
    folder = place.body if part in ("gguf", "ollama") and place.is_encoder else place.checkpoint
    try:
        limits = asked_alone(part, inspect(folder))
    except UserError:
        return True
    return any(cell.removeprefix("prune ") in limit for limit in limits)


def _short(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def page(found: Mapping[str, Any]) -> str:
    """docs/models.md, whole."""
    notes: dict[str, int] = {}
    lines = [*_opening(found)]
    kinds = {
        "Decoders": DECODER_FAMILIES,
        "Encoders": ENCODER_FAMILIES,
        "Further rope scalings": ROPES,
    }
    for kind, rows in kinds.items():
        families = {name: found["families"][name] for name in rows if name in found["families"]}
        if not families:
            continue
        for group, names in _GROUPS.items():
            own = [n for n in names if any(n in row["cells"] for row in families.values())]
            if len(own) > 1:
                lines += [f"## {kind}: {group[0].lower()}{group[1:]}", ""]
                lines += [*_table(families, own, notes), ""]
        lines += [f"What is real about the {kind.lower()}:", ""]
        lines += [f"- {row['title']}: {_about(row)}" for row in families.values()]
        lines += [""]
    lines += _tokenizers(found.get("tokenizers", {}), notes)
    lines += _templates(found.get("templates", {}), notes)
    lines += ["## Notes", ""]
    lines += [f"{number}. {text}" for text, number in notes.items()]
    return "\n".join(lines) + "\n"


def _tokenizers(rows: Mapping[str, Any], notes: dict[str, int]) -> Iterator[str]:
    yield from (
        "## Tokenizers",
        "",
        "Each in a small Llama: its file's token ids are Hugging Face's on real and awkward text",
        "(Chinese, emoji with joiners, combining marks, code, runs of spaces and newlines,",
        "right-to-left, special tokens as text), and so are those of chat prompts.",
        "",
        "| tokenizer | GGUF | pre-tokenizer |",
        "|---|---|---|",
    )
    for row in rows.values():
        cell = row["cells"]["gguf"]
        figures = cell.get("figures", {})
        made = "scores from the merges" if figures.get("scores_from_merges") else "-"
        how = figures.get("pre_tokenizer") or made
        yield f"| {row['title']} | {_shown(cell, notes)} | {how} |"
    yield ""


def _templates(rows: Mapping[str, Any], notes: dict[str, int]) -> Iterator[str]:
    if not rows:
        return
    engines = list(next(iter(rows.values())))
    yield from (
        "## Chat templates",
        "",
        "How many of the conversations (with and without a system message, several turns, padded",
        "and awkward contents, tools) are rendered as Hugging Face's transformers renders them, or",
        "refused as there. llama.cpp's built-in layouts are what a program shows that does not run",
        "the Jinja template of the file. Ollama: [ollama-templates.md](ollama-templates.md).",
        "",
        "| template | " + " | ".join(engines) + " |",
        "|---" * (len(engines) + 1) + "|",
    )
    for name, row in rows.items():
        shown = []
        for engine in engines:
            cell = row[engine]
            first = cell.get("first")
            number = notes.setdefault(f"{name}: {first}", len(notes) + 1) if first else 0
            note = f" ({number})" if first else ""
            shown.append(f"{cell['equal']} of {cell['of']}{note}")
        yield f"| `{name}` | " + " | ".join(shown) + " |"
    yield ""


def _about(row: Mapping[str, Any]) -> str:
    rope = f"; rope scaling {row['rope']}" if row["rope"] and not row["structure"] else ""
    return f"{row['structure']}{rope}; tokenizer {row['tokenizer']}".lstrip("; ")


def _opening(found: Mapping[str, Any]) -> Iterator[str]:
    libraries = ", ".join(f"{n} {v}" for n, v in found["versions"].items() if n != "matrix")
    rows = found["families"]
    named = [name for name in (*DECODER_FAMILIES, *ENCODER_FAMILIES) if name in rows]
    types = ("gguf", "F16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0")
    gguf = sum(_good(rows[name], types) for name in named)
    int8 = sum(_good(rows[name], ("onnx", "onnx-int8")) for name in named)
    yield from (
        "# Models: what was measured",
        "",
        "Written by `scripts/model_matrix.py` (`make matrix`); `edgeforge check` speaks from the",
        "same data (`toolchain/check/families.json`). A tiny checkpoint of each family, of random",
        "weights and the structure of the real ones, went through every stage, each cell in a",
        "process of its own. What a cell shows is that the stage works with the architecture and",
        "that an export computes the same; how much a real model loses is for a build's gates.",
        "",
        f"{found['date']}; {libraries}.",
        "",
        f"- GGUF in every type with parity: **{gguf} of {len(named)}** families.",
        f"- ONNX with parity and INT8: **{int8} of {len(named)}** families.",
        "",
        "`works`: as it should. `limited`: works, with the note's limit. `refused`: said before",
        "any work, by `edgeforge check` and by a build, with the note's message.",
        "",
    )


def _good(row: Mapping[str, Any], names: Sequence[str]) -> bool:
    cells = row["cells"]
    return all(n in cells and cells[n]["verdict"] in (WORKS, LIMITED) for n in names)


def _table(
    families: Mapping[str, Mapping[str, Any]], names: Sequence[str], notes: dict[str, int]
) -> Iterator[str]:
    yield "| family | " + " | ".join(_HEADS.get(name, name) for name in names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for row in families.values():
        shown = (_shown(row["cells"].get(name), notes) for name in names)
        yield f"| {row['title']} | " + " | ".join(shown) + " |"


def _shown(cell: Mapping[str, Any] | None, notes: dict[str, int]) -> str:
    if cell is None:
        return "-"
    word = _WORDS[cell["verdict"]]
    details = cell.get("details", ())
    if not details:
        return word
    mend = f" → {cell['mend']}" if cell.get("mend") else ""
    text = "; ".join(details)
    number = notes.setdefault(f"{_cut(text)}{mend}", len(notes) + 1)
    return f"{word} ({number})"


def _cut(text: str, most: int = 400) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def write(found: Mapping[str, Any], data_file: Path, page_file: Path) -> None:
    """Both files."""
    from common.files import write_json, write_text

    write_json(data_file, dict(found))
    write_text(page_file, page(read_json(data_file)))
