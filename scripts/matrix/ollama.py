"""A GGUF in a real Ollama: imported, and asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ollama_programs import ABSENT, programs, version_of  # type: ignore[import-not-found]

from common.errors import UserError
from matrix.cells import NotHere

_PROMPT, _TOKENS = "Turn on the lamp in the kitchen", 24
# So many characters alike are no chance.
_SAME = 5


def answers(gguf: Path, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Versions of Ollama that import the file and answer; limits where an answer soon parts from
    llama.cpp's (random weights have ties, and other kernels round otherwise). Raises `UserError`
    where one does not answer, `NotHere` without any Ollama."""
    from runtimes.llama import LlamaModel
    from runtimes.ollama import Client
    from runtimes.ollama_server import server

    found = programs()
    if not found:
        raise NotHere(ABSENT)
    with LlamaModel(gguf, context_tokens=128, threads=1) as model:
        prompt = model.tokenize(_PROMPT, add_special=True)
        made = model.generate(prompt, _TOKENS, []).token_ids
        expected = _whole(model.detokenize(made, special=True))
    modelfile = folder / "Modelfile"
    modelfile.write_text(
        f"FROM {gguf}\nTEMPLATE {{{{ .Prompt }}}}\nPARAMETER num_ctx 128\n", encoding="utf-8"
    )
    limits = []
    for program in found:
        with server(folder / "ollama", binary=program) as running:
            client = Client(running.url, program, {"num_thread": 1})
            client.create("matrix", modelfile)
            options = {"temperature": 0, "num_predict": _TOKENS, "repeat_penalty": 1.0}
            reply = client.generate("matrix", _PROMPT, raw=True, options=options)
        if not reply["eval_count"]:
            raise UserError(f"Ollama {version_of(program)} imports the file and answers nothing")
        same = _alike(_whole(reply["response"]), expected)
        if same < _SAME:
            limits.append(
                f"imported and answers; on Ollama {version_of(program)} the answer of random "
                f"weights soon parts from llama.cpp's"
            )
    return {"versions": [version_of(program) for program in found]}, limits


def _whole(text: str) -> str:
    """Without the bytes that are no UTF-8, which Ollama leaves out; random weights write many."""
    return text.replace("\ufffd", "")


def _alike(one: str, other: str) -> int:
    """Characters before the two part."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
