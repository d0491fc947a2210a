"""What a path holds that is not a checkpoint, told to the user together with what to do."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_object

_LISTED = 5


def what_it_is(path: Path) -> tuple[str, str]:
    """(problem, mend) for a path without a config.json."""
    if path.is_file():
        return f"{path} is a file, not a checkpoint folder", _file_mend(path)
    start = f"{path} is not a checkpoint: no config.json"
    found = [probe(path) for probe in (_adapter, _gguf, _parent, _pipeline, _original)]
    for hit in found:
        if hit is not None:
            return f"{start}; {hit[0]}", hit[1]
    if not any(path.iterdir()):
        return f"{start}; the folder is empty", "give a folder with a Hugging Face checkpoint"
    if any(path.glob("*.safetensors")):
        return f"{start}, though it has weights", "fetch config.json and the tokenizer's files too"
    return start, "give a folder with config.json, tokenizer files and *.safetensors, or a hub id"


def _file_mend(path: Path) -> str:
    if path.suffix == ".gguf":
        return "a GGUF file is a result of this tool: give the Hugging Face checkpoint it came from"
    if (path.parent / "config.json").is_file():
        return f"give its folder: {path.parent}"
    return "give a folder with a Hugging Face checkpoint"


def _adapter(path: Path) -> tuple[str, str] | None:
    if not (path / "adapter_config.json").is_file():
        return None
    base: Any = None
    with contextlib.suppress(UserError):
        base = read_object(path / "adapter_config.json").get("base_model_name_or_path")
    of = f" of {base}" if isinstance(base, str) and base else ""
    return (
        f"it is an adapter{of}",
        "merge it into its base first: edgeforge merge --model BASE --adapter FOLDER",
    )


def _gguf(path: Path) -> tuple[str, str] | None:
    names = sorted(file.name for file in path.glob("*.gguf"))
    if not names:
        return None
    return (
        f"it holds GGUF files ({', '.join(names[:_LISTED])})",
        "GGUF is a result of this tool: give the Hugging Face checkpoint they came from",
    )


def _parent(path: Path) -> tuple[str, str] | None:
    inner = sorted(
        {file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/config.json")}
    )
    if not inner:
        return None
    names = [folder.relative_to(path).as_posix() for folder in inner[:_LISTED]]
    more = f" and {len(inner) - _LISTED} more" if len(inner) > _LISTED else ""
    return f"it holds checkpoints: {', '.join(names)}{more}", f"give one of them, e.g. {inner[0]}"


def _pipeline(path: Path) -> tuple[str, str] | None:
    if not (path / "model_index.json").is_file():
        return None
    return "it is a diffusers pipeline", "give a language model's checkpoint"


def _original(path: Path) -> tuple[str, str] | None:
    if not (path / "params.json").is_file():
        return None
    return (
        "it has params.json: the maker's own format, not Hugging Face's",
        "use the Hugging Face version of the model",
    )
