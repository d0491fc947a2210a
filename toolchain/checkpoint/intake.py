"""Take a checkpoint in: inspected, validated, digested. Its folder is never written to.

    source, info = open_checkpoint(path, workspace.stages)

Digests and the verdict on NaN are remembered in the cache folder, so that a second build of a large
model does not read its weights again.
"""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatch
from pathlib import Path

from common.errors import UserError
from toolchain.artifact import Artifact
from toolchain.checkpoint.digests import FileScans
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.validate import validate
from toolchain.checkpoint.weights import INDEX, PICKLE_INDEX
from toolchain.pipeline import Workspace, run_stage

FORMAT = "hf"
PICKLE_FORMAT = "hf-pickle"
STAGE = "checkpoint"
SMALL_FILES = (
    "config.json", "generation_config.json", "*token*.json", "tokenizer.model", "*.tiktoken",
    "tekken.json", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt",
    "merges.txt", "chat_template.json", "chat_template.jinja", "LICEN*", "COPYING*", "NOTICE*",
    "README.md",
)  # fmt: skip


def require_checkpoint(source: Artifact, stage: str) -> None:
    """Raise a `UserError` that names the stage when it was given anything but a checkpoint."""
    if source.format != FORMAT:
        raise UserError(f"{stage} takes a checkpoint with safetensors, not {source.format}")


def open_checkpoint(
    path: Path,
    cache_folder: Path | None,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> tuple[Artifact, CheckpointInfo]:
    """The checkpoint in `path` as an artifact, and its facts.

    The format is `hf`, or `hf-pickle` when `allow_pickle` let pickled weights pass: then
    `pickle_import` must run first. Raises `UserError` listing all faults; then nothing is written.
    """
    info = inspect(path)
    scans = FileScans(cache_folder)
    validate(info, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code, scans=scans)
    files = {
        file.relative_to(info.path).as_posix(): scans.scan(file).sha256
        for file in relevant_files(info, with_code=trust_remote_code)
    }
    scans.save()
    artifact = Artifact(
        path=info.path,
        format=PICKLE_FORMAT if info.pickle_only else FORMAT,
        files=files,
        stage=STAGE,
        measurements=measurements(info),
    )
    return artifact, info


def relevant_files(info: CheckpointInfo, *, with_code: bool = False) -> list[Path]:
    """The files that make the checkpoint, sorted: never `.git` and never anything unknown."""
    patterns = (*SMALL_FILES, *(("*.py",) if with_code else ()))
    files = {
        path
        for path in info.path.iterdir()
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in patterns)
    }
    files.update(info.weight_files or info.pickle_files)
    index = info.path / (INDEX if info.weight_files else PICKLE_INDEX)
    if index.is_file():
        files.add(index)
    if info.companion is not None:
        files.update(path for path in info.companion.glob("*.jsonl") if path.is_file())
    return sorted(files)


def measurements(info: CheckpointInfo) -> dict[str, int | str | None]:
    """What the artifact records of a checkpoint."""
    return {
        "architecture": info.architecture,
        "parameters": info.parameters,
        "weight_bytes": info.weight_bytes,
        "vocab_size": info.vocab_size,
        "context_tokens": info.context_tokens,
    }


def checkpoint_for_build(
    path: Path,
    workspace: Workspace,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> tuple[Artifact, CheckpointInfo]:
    """`open_checkpoint`, and safetensors made of pickles in the workspace where needed."""
    source, info = open_checkpoint(
        path, workspace.stages, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
    )
    if source.format == FORMAT:
        return source, info
    from toolchain.checkpoint import pickle_import

    imported = run_stage(pickle_import, source, pickle_import.Config(), workspace)
    return imported, dataclasses.replace(inspect(imported.path), name=info.name)
