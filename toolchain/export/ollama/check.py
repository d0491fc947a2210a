"""Prove a bundle on a real Ollama: created, shown as asked for, rendered and answered as recorded.

modelfile = choose_modelfile(bundle, client.version())
with trial(client, "my-model", bundle, modelfile) as name:
    checks = prove(client, name, read_facts(bundle, modelfile))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.files import read_object
from runtimes.ollama import JINJA_VERSION, Client
from toolchain.export.ollama.answers import recorded_checks, rendered_checks, request_checks
from toolchain.export.ollama.checks import Check, Facts
from toolchain.export.ollama.modelfile import MODELFILE, MODELFILE_JINJA, needs_jinja
from toolchain.export.ollama.shown import loaded_check, shown_checks


def choose_modelfile(bundle: Path, version: Sequence[int]) -> Path:
    """The Modelfile for this version of Ollama: Jinja from 0.30 on, a Go TEMPLATE before.

    Raises `UserError` when the bundle has none, or only one that needs a newer version.
    """
    plain, jinja = bundle / MODELFILE, bundle / MODELFILE_JINJA
    if _is_onnx(bundle):
        raise UserError(
            f"{bundle} is an ONNX bundle, and Ollama runs GGUF",
            "build with a llama.cpp type, for example quantization=Q4_K_M",
        )
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


def prove(client: Client, name: str, facts: Facts) -> list[Check]:
    """Check a created model: what Ollama shows of it, the prompts that it renders, its answers."""
    return [
        *shown_checks(client, name, facts),
        *rendered_checks(client, name, facts),
        *request_checks(client, name, facts),
        loaded_check(client, name, facts),
        *recorded_checks(client, name, facts),
    ]


def _is_onnx(bundle: Path) -> bool:
    path = bundle / "manifest.json"
    return path.is_file() and read_object(path).get("runtime") == "onnxruntime"


def shown(version: Sequence[int]) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))
