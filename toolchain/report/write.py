"""The bundle's report, readable in a minute: one structure from `manifest.json`, two languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.shell import shell_word
from toolchain.report import chain
from toolchain.report.exact import exact
from toolchain.report.ledger import ledger_blocks
from toolchain.report.markdown import MISSING, escape, figure, size, table
from toolchain.report.mixed import mixed
from toolchain.report.pruning import pruning
from toolchain.report.sparsity import sparsity
from toolchain.report.strings import LANGUAGES, name_of, text
from toolchain.report.teaching import fresh_students, teacher_caches
from toolchain.report.vocabulary import vocabulary

__all__ = ["LANGUAGES", "report_name", "write_report"]

_VERDICTS = {True: "passed", False: "failed", None: "no limit"}
_TITLES = {"en": "title", "zh-CN": "title_zh"}


def report_name(language: str) -> str:
    """`report.md`, and `report.<language>.md` for any language but English."""
    return "report.md" if language == LANGUAGES[0] else f"report.{language}.md"


def write_report(manifest: Mapping[str, Any], language: str = LANGUAGES[0]) -> str:
    """The report of a bundle's manifest, with its `ledger` where there is one, as Markdown. The
    same manifest gives the same text."""
    sections = (_summary, _ledger, _chain, _gates, _tried, _types, _plan, _run, _provenance)
    parts = [section(manifest, language) for section in sections]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(manifest: Mapping[str, Any], language: str) -> str:
    failed = [
        name_of(gate["name"], language) for gate in manifest["gates"] if gate["passed"] is False
    ]
    verdict = text("all_passed", language) if manifest["gates"] else text("no_gates", language)
    if failed:
        verdict = text("some_failed", language, names=", ".join(failed))
    file, target = manifest["model_file"], manifest["target"]
    heading = text(
        "title", language, model=escape(manifest["model"]), target=escape(target["name"])
    )
    line = text(
        "summary",
        language,
        verdict=verdict,
        type=escape(manifest["quantization"]),
        size=size(file["size_bytes"]),
        bits=figure(file["bits_per_weight"]),
        title=escape(target.get(_TITLES[language]) or target["name"]),
    )
    return f"# {heading}\n\n{line}\n\n{text('log_note', language)}"


def _chain(manifest: Mapping[str, Any], language: str) -> str:
    """What the recipe did before the export: training, before and after, answers."""
    bodies = {
        "before_after": chain.before_and_after(manifest, language),
        "answers": chain.answers(manifest, language),
        "pruning": pruning(manifest, language),
        "vocabulary_cut": vocabulary(manifest, language),
        "sparsity": sparsity(manifest, language),
        "students": fresh_students(manifest, language),
        "teacher_caches": teacher_caches(manifest, language),
        "exact": exact(manifest, language),
        "mixed": mixed(manifest, language),
        "training": chain.training(manifest, language),
    }
    return "\n\n".join(_section(key, language, body) for key, body in bodies.items() if body)


def _ledger(manifest: Mapping[str, Any], language: str) -> str:
    ledger = manifest.get("ledger")
    if not ledger:
        return ""
    body = [block.as_markdown() for block in ledger_blocks(ledger, language)]
    return _section("ledger", language, "\n\n".join(body))


def _gates(manifest: Mapping[str, Any], language: str) -> str:
    if not manifest["gates"]:
        return ""
    rows = [
        (
            name_of(gate["name"], language),
            figure(gate["figure"]),
            figure(gate["limit"]),
            text(_VERDICTS[gate["passed"]], language),
            gate["detail"],
        )
        for gate in manifest["gates"]
    ]
    note = ""
    if manifest["evaluation"]:
        values = {key: escape(str(value)) for key, value in manifest["evaluation"].items()}
        note = "\n\n" + text("evaluated_on", language, **values)
    return _section("gates", language, table(text("gates_columns", language), rows) + note)


def _tried(manifest: Mapping[str, Any], language: str) -> str:
    if not manifest["tried"]:
        return ""
    if "figures" in manifest["tried"][0]:
        return _section("tried", language, _tried_with_figures(manifest["tried"], language))
    rows = [
        (
            record["quantization"],
            size(record["size_bytes"]),
            figure(record["bits_per_weight"]),
            figure(record.get("mean_kld")),
            figure(record.get("task_score")),
            text(record["verdict"], language),
            record["reason"],
        )
        for record in manifest["tried"]
    ]
    return _section("tried", language, table(text("tried_columns", language), rows))


def _tried_with_figures(tried: Sequence[Mapping[str, Any]], language: str) -> str:
    """Candidates that were measured in more than quality: a column for each figure."""
    names = list(dict.fromkeys(name for record in tried for name in record["figures"]))
    first, last = (part.split("|") for part in text("tried_figures", language).split("…"))
    columns = [*first, *(name_of(name, language) for name in names), *last]
    rows = [
        (
            record["quantization"],
            size(record["size_bytes"]),
            *(figure(record["figures"].get(name)) for name in names),
            text(record["verdict"], language),
            record["reason"],
        )
        for record in tried
    ]
    return table("|".join(columns), rows)


def _types(manifest: Mapping[str, Any], language: str) -> str:
    file = manifest["model_file"]
    if not file["types"]:
        return ""
    rows = [(row["intended"], row["actual"], row["tensors"]) for row in file["types"]]
    note = text("no_fallback", language)
    if file["fallbacks"]:
        widths = sorted({fallback["columns"] for fallback in file["fallbacks"]})
        note = text(
            "fallback",
            language,
            count=len(file["fallbacks"]),
            columns=", ".join(map(str, widths)),
        )
    return _section("types", language, f"{table(text('types_columns', language), rows)}\n\n{note}")


def _plan(manifest: Mapping[str, Any], language: str) -> str:
    if manifest.get("kind") == "encoder":
        return ""
    plan, chosen = manifest["plan"], _planned(manifest)
    weights = chosen["size"]["weights_bytes"] if chosen else manifest["model_file"]["size_bytes"]
    total = weights + plan["kv_cache_bytes"] + plan["compute_bytes"]
    speed = f"{figure(chosen['decode_tokens_per_sec'])} tokens/s" if chosen else MISSING
    row = (
        plan["context_tokens"],
        size(weights),
        size(plan["kv_cache_bytes"]),
        size(plan["compute_bytes"]),
        size(total),
        size(plan["usable_bytes"]),
        speed,
    )
    columns = text("plan_columns", language, kv=plan["kv_cache_type"])
    return _section("plan", language, table(columns, [row]))


def _planned(manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The plan's figures for the type that the bundle has."""
    candidates = manifest["plan"].get("candidates", [])
    wanted = manifest["quantization"]
    return next((c for c in candidates if c["size"]["quantization"] == wanted), None)


def _run(manifest: Mapping[str, Any], language: str) -> str:
    if manifest.get("runtime") == "onnxruntime":
        return _section("run", language, _run_onnx(manifest, language))
    plan, ollama = manifest["plan"], manifest["ollama"]
    model, name = shell_word(manifest["model_file"]["name"]), _ollama_name(manifest["model"])
    layers = manifest["target"]["gpu_layers"]
    offload = "" if layers == 0 else f" -ngl {'all' if layers < 0 else layers}"
    cache = plan["kv_cache_type"]
    kv = "" if cache == "f16" else f" -ctk {shell_word(cache)} -ctv {shell_word(cache)} -fa on"
    adapter = manifest.get("adapter")
    lora = f" --lora {shell_word(adapter['name'])}" if adapter else ""
    lines = [
        "```sh",
        f"python3 smoke_test.py            # {text('run_check', language)}",
        f"ollama create {name} -f Modelfile && ollama run {name}",
        f"llama-server -m {model} -c {plan['context_tokens']}{offload}{kv}{lora}",
        "```",
    ]
    if adapter:
        size_text = size(adapter["size_bytes"])
        lines += ["", text("adapter_apart", language, name=adapter["name"], size=size_text)]
    lines += ["", *(f"- Ollama: {escape(note)}" for note in ollama["notes"])]
    if ollama["refusal"]:
        lines += ["", text("jinja_only", language, reason=escape(ollama["refusal"]))]
    return _section("run", language, "\n".join(lines))


def _run_onnx(manifest: Mapping[str, Any], language: str) -> str:
    verb = "classify" if manifest.get("kind") == "encoder" else "generate"
    lines = [
        "```sh",
        f"pip install onnxruntime tokenizers && python3 smoke_test.py   # "
        f"{text('run_check', language)}",
        f'edgeforge {verb} . "…"',
        "```",
    ]
    return "\n".join(lines)


def _provenance(manifest: Mapping[str, Any], language: str) -> str:
    base = manifest["base"]
    stages = " → ".join(f"{entry['stage']} {entry['digest'][:12]}" for entry in manifest["chain"])
    versions = ", ".join(f"{tool} {number}" for tool, number in manifest["versions"].items())
    rows = [
        (text("base", language, count=len(base["files"])), base["digest"]),
        (text("file", language), manifest["model_file"]["sha256"]),
        (text("stages", language), stages),
        (text("versions", language), versions),
        (text("license", language), manifest["licences"]["model"] or text("unknown", language)),
    ]
    return _section("provenance", language, table(text("provenance_columns", language), rows))


def _section(key: str, language: str, body: str) -> str:
    return f"## {text(key, language)}\n\n{body}"


def _ollama_name(model: str) -> str:
    """A model's name as Ollama takes it: lower case letters, digits and dashes."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in model.lower())
    return plain.strip("-") or "model"
