"""A GGUF in a real Ollama: imported, and asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ollama_programs import ABSENT, programs, version_of  # type: ignore[import-not-found]

from common.errors import UserError
from matrix.cells import NotHere

_PROMPT, _TOKENS = "Turn on the lamp in the kitchen", 24


def answer_equal(gguf: Path, folder: Path) -> dict[str, Any]:
    """Versions whose greedy answer is llama.cpp's. Raises `UserError` where one's is not, `NotHere`
    without any Ollama."""
    from runtimes.llama import LlamaModel
    from runtimes.ollama import Client
    from runtimes.ollama_server import server

    found = programs()
    if not found:
        raise NotHere(ABSENT)
    with LlamaModel(gguf, context_tokens=128, threads=1) as model:
        prompt = model.tokenize(_PROMPT, add_special=True)
        expected = model.generate(prompt, _TOKENS).text
    modelfile = folder / "Modelfile"
    modelfile.write_text(
        f"FROM {gguf}\nTEMPLATE {{{{ .Prompt }}}}\nPARAMETER num_ctx 128\n", encoding="utf-8"
    )
    for program in found:
        with server(folder / "ollama", binary=program) as running:
            client = Client(running.url, program, {"num_thread": 1})
            client.create("matrix", modelfile)
            options = {"temperature": 0, "num_predict": _TOKENS, "repeat_penalty": 1.0}
            said = client.generate("matrix", _PROMPT, raw=True, options=options)["response"]
        # Ollama leaves bytes out that are no UTF-8; random weights write many.
        if _whole(said) != _whole(expected):
            raise UserError(
                f"Ollama {version_of(program)} answers {said[:40]!r}, llama.cpp {expected[:40]!r}"
            )
    return {"versions": [version_of(program) for program in found]}


def _whole(text: str) -> str:
    return text.replace("\ufffd", "")
