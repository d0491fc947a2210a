#!/usr/bin/env python3
"""Which chat templates and which types are proven on which Ollama: tried, then written as a table.

Every template goes into a real Ollama as the TEMPLATE that a bundle would carry, and every kind of
conversation is rendered and compared with Hugging Face's; every type is created, read back and
answers as in llama.cpp.

    .venv/bin/python scripts/ollama_matrix.py                   # each Ollama found; families' own
    .venv/bin/python scripts/ollama_matrix.py --ollama /opt/ollama-0.12.6/ollama --templates DIR
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT, ROOT / "tests", ROOT / "tests" / "runtimes", ROOT / "tests/export/ollama"):
    sys.path.insert(0, str(_folder))

from family_templates import TEMPLATES  # type: ignore[import-not-found]  # noqa: E402
from ollama_models import write_tiny_gguf  # type: ignore[import-not-found]  # noqa: E402
from ollama_programs import programs, version_of  # type: ignore[import-not-found]  # noqa: E402

from common.files import write_text  # noqa: E402
from runtimes.ollama import Client  # noqa: E402
from runtimes.ollama_server import server  # noqa: E402
from toolchain.data.chat import ChatTemplateError, render_chat  # noqa: E402
from toolchain.export.ollama.chat_family import ChatFamilyError  # noqa: E402
from toolchain.export.ollama.conversations import ALL  # noqa: E402
from toolchain.export.ollama.families import load_families  # noqa: E402
from toolchain.export.ollama.modelfile import (  # noqa: E402
    MODELFILE,
    ModelfileSettings,
    write_modelfiles,
)

OUT = ROOT / "docs" / "ollama-templates.md"
TYPES = ("Q4_0", "Q4_K_M", "Q5_K_M", "Q8_0", "F16")
SAID = "Helo wrd."
BOS, EOS = "<s>", "</s>"
# Name of a template, its text.
Named = tuple[str, str]
# (row, version) to what the cell says.
Cells = Mapping[tuple[str, str], str]


def try_template(client: Client, gguf: Path, template: str) -> str:
    """How many kinds of conversation Ollama renders as the template does, `16 of 16`; or why none
    is compared. (Those that the template itself refuses are not counted.)"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / gguf.name).symlink_to(gguf)
        settings = ModelfileSettings(template, BOS, EOS, num_ctx=8192)
        match = write_modelfiles(folder, gguf.name, settings).match
        if match is None:
            return "needs 0.30"
        client.create("matrix", folder / MODELFILE)
    equal = compared = 0
    for conversation in ALL:
        try:
            expected = render_chat(template, conversation.messages, bos_token=BOS, eos_token=EOS)
        except ChatTemplateError:
            continue
        compared += 1
        rendered = client.render("matrix", conversation.messages)
        equal += rendered.removeprefix(BOS) == expected.removeprefix(BOS)
    return f"{equal} of {compared}"


def try_type(client: Client, folder: Path, quantization: str) -> str:
    """`equal` when Ollama reads the file's types and gives llama.cpp's greedy answer."""
    from runtimes.gguf_file import read_tensor_types
    from runtimes.llama import LlamaModel
    from runtimes.quantizer import quantize

    source, file = folder / "source.gguf", folder / f"{quantization}.gguf"
    if not source.is_file():
        write_tiny_gguf(source, say=SAID, hidden=256)
    quantize(source, file, quantization)
    with LlamaModel(file, context_tokens=64) as model:
        expected = model.generate(model.tokenize("hi", add_special=True), 32).text
    (folder / MODELFILE).write_text(
        f"FROM ./{file.name}\nTEMPLATE {{{{ .Prompt }}}}\nPARAMETER num_ctx 64\n"
    )
    client.create("matrix", folder / MODELFILE)
    types = sorted(tensor["type"] for tensor in client.tensors("matrix"))
    if types != sorted(tensor.type for tensor in read_tensor_types(file)):
        return "other types"
    reply = client.generate("matrix", "hi", raw=True, options={"temperature": 0, "num_predict": 32})
    return "equal" if reply["response"] == expected else "other answer"


def templates_of(folders: Iterable[Path]) -> list[Named]:
    """The families' own test templates, then every .jinja file of the folders."""
    own = [(f"{family}: {name}", text) for name, family, text in TEMPLATES]
    files = [file for folder in folders for file in sorted(folder.glob("*.jinja"))]
    return own + [(f"`{file.name}`", file.read_text(encoding="utf-8")) for file in files]


def try_all(program: Path, templates: Sequence[Named]) -> tuple[str, dict[str, str]]:
    """Everything on one Ollama; its version, and what each row says."""
    with tempfile.TemporaryDirectory(prefix="edgeforge-matrix-") as name:
        folder = Path(name)
        gguf = write_tiny_gguf(folder / "tiny.gguf")
        with server(folder / "store", binary=program) as running:
            client = Client(running.url, program, {"num_thread": 1})
            cells = {}
            for row, template in templates:
                try:
                    cells[row] = try_template(client, gguf, template)
                except ChatFamilyError:
                    cells[row] = "needs 0.30"
                print(f"{version_of(program)}  {row}: {cells[row]}", file=sys.stderr)
            cells |= {kind: try_type(client, folder, kind) for kind in TYPES}
    return version_of(program), cells


def page(versions: Sequence[str], cells: Cells, templates: Sequence[str]) -> str:
    """The page, whole."""
    titles = {family.name: family.title for family in load_families()}

    def table(head: str, rows: Sequence[str]) -> list[str]:
        lines = [f"| {head} | " + " | ".join(versions) + " |", "|---" * (len(versions) + 1) + "|"]
        for row in rows:
            family, _, rest = row.partition(": ")
            shown = f"{titles[family]} ({rest})" if family in titles else row
            lines.append(f"| {shown} | " + " | ".join(cells[row, v] for v in versions) + " |")
        return lines

    return "\n".join(
        [
            "# Chat templates and types proven in Ollama",
            "",
            "Written by `scripts/ollama_matrix.py`: each template went into a real Ollama of each",
            "version, and every kind of conversation that the template takes was rendered there",
            "and compared with Hugging Face's, character by character.",
            "",
            *table("template", templates),
            "",
            "Files of each type: Ollama reads the same types of tensors, and its greedy answer is",
            "llama.cpp's.",
            "",
            *table("type", TYPES),
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ollama", type=Path, action="append", help="a program; can be repeated")
    parser.add_argument(
        "--templates", type=Path, action="append", default=[], help="a folder of .jinja files"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="the page (default: docs/)")
    args = parser.parse_args()
    found = args.ollama or programs()
    if not found:
        print("error: no Ollama; scripts/install_ollama.sh builds one", file=sys.stderr)
        return 2
    templates = templates_of(args.templates)
    results = [try_all(program, templates) for program in found]
    cells = {(row, version): cell for version, rows in results for row, cell in rows.items()}
    write_text(args.out, page([v for v, _ in results], cells, [row for row, _ in templates]))
    good = all(cell in ("equal", "needs 0.30") or _full(cell) for cell in cells.values())
    print(f"{args.out}: {len(templates)} templates, {len(TYPES)} types, {len(results)} versions")
    return 0 if good else 1


def _full(cell: str) -> bool:
    equal, _, compared = cell.partition(" of ")
    return equal == compared


if __name__ == "__main__":
    sys.exit(main())
