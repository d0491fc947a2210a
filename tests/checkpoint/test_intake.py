"""A checkpoint taken in: its artifact, the remembered digests, an untouched folder; pickles."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import edit, snapshot, weights, write_checkpoint

from common.errors import UserError
from common.files import sha256_file
from toolchain.checkpoint import digests, pickle_import
from toolchain.checkpoint.digests import CACHE_FILE
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import checkpoint_for_build, open_checkpoint
from toolchain.pipeline import Workspace


def aged(folder: Path) -> Path:
    """Make files old enough that their scans are remembered."""
    past = time.time() - 100
    for path in folder.rglob("*"):
        os.utime(path, (past, past))
    return folder


def counted_scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are really read from now on."""
    read: list[str] = []
    real = digests.scan_file

    def scan_file(path: Path, *args: object) -> digests.FileScan:
        read.append(path.name)
        return real(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(digests, "scan_file", scan_file)
    return read


def test_artifact_covers_the_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", shards=2)
    (folder / ".git").mkdir()
    (folder / ".git" / "config.json").write_text("{}")
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / "modeling.py").write_text("")
    (folder / "edgeforge").mkdir()
    (folder / "edgeforge" / "task.jsonl").write_text("{}\n")
    (folder / "LICENSE").write_text("terms")
    before = snapshot(folder)
    artifact, info = open_checkpoint(folder, tmp_path / "cache")
    assert set(artifact.files) == {
        "LICENSE", "config.json", "edgeforge/task.jsonl", "generation_config.json",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    for name, digest in artifact.files.items():
        assert digest == sha256_file(folder / name)
    assert (artifact.format, artifact.stage, artifact.path) == ("hf", "checkpoint", folder)
    assert artifact.measurements["parameters"] == info.parameters > 0
    assert artifact.measurements["weight_bytes"] == info.weight_bytes
    assert snapshot(folder) == before


def test_second_intake_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = aged(write_checkpoint(tmp_path / "model"))
    read = counted_scans(monkeypatch)
    first, _ = open_checkpoint(folder, tmp_path / "cache")
    assert read.count("model.safetensors") == 1, "digest and NaN check share one pass"
    read.clear()
    second, _ = open_checkpoint(folder, tmp_path / "cache")
    assert read == []
    assert second == first


def test_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = aged(write_checkpoint(tmp_path / "model"))
    first, _ = open_checkpoint(folder, tmp_path / "cache")
    read = counted_scans(monkeypatch)
    tensors = {**weights(), "model.norm.weight": np.zeros(32, dtype="float32")}
    write_checkpoint(folder, tensors=tensors)  # same size, other bytes
    os.utime(folder / "model.safetensors", (1e9, 1e9))
    second, _ = open_checkpoint(folder, tmp_path / "cache")
    assert "model.safetensors" in read
    assert second.digest != first.digest
    tensors["model.norm.weight"][3] = np.nan
    write_checkpoint(folder, tensors=tensors)
    with pytest.raises(UserError, match="1 NaN"):
        open_checkpoint(folder, tmp_path / "cache")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:50],
        lambda text: "[]",
        lambda text: "",
        lambda text: text.replace('"schema": 1', '"schema": 0'),
        lambda text: text.replace('"sha256": "', '"sha256": "zz'),
        lambda text: text.replace('"non_finite": []', '"non_finite": [[1]]'),
        lambda text: "[" * 100_000,
    ],
)
def test_damaged_cache_is_ignored_and_mended(damage, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = aged(write_checkpoint(tmp_path / "model"))
    first, _ = open_checkpoint(folder, tmp_path / "cache")
    cache = tmp_path / "cache" / CACHE_FILE
    good = cache.read_text()
    assert len(json.loads(good)["files"]) == len(first.files)
    cache.write_text(damage(good))
    assert cache.read_text() != good
    assert open_checkpoint(folder, tmp_path / "cache")[0] == first
    assert cache.read_text() == good


def test_cache_folder_that_cannot_be_made_is_no_fault(tmp_path: Path) -> None:
    folder = aged(write_checkpoint(tmp_path / "model"))
    (tmp_path / "file").write_text("")
    open_checkpoint(folder, tmp_path / "file" / "cache")


def test_read_only_checkpoint(tmp_path: Path) -> None:
    folder = aged(write_checkpoint(tmp_path / "model"))
    folder.chmod(0o555)
    try:
        open_checkpoint(folder, tmp_path / "cache")
    finally:
        folder.chmod(0o755)


def test_digest_without_tensors_is_no_verdict_on_nan(tmp_path: Path) -> None:
    tensors = weights()
    tensors["model.norm.weight"][0] = np.inf
    folder = aged(write_checkpoint(tmp_path / "model", tensors=tensors))
    scans = digests.FileScans(tmp_path / "cache")
    scans.scan(folder / "model.safetensors")
    scans.save()
    assert (tmp_path / "cache" / CACHE_FILE).is_file()
    with pytest.raises(UserError, match="1 Inf"):
        open_checkpoint(folder, tmp_path / "cache")


def pickled(folder: Path, shards: int = 1, **extra: object) -> Path:
    """A checkpoint whose weights are torch pickles; the tied head shares the embedding's memory."""
    import torch

    write_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    tensors: dict[str, object] = {n: torch.from_numpy(a) for n, a in weights().items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors |= extra
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return folder
    weight_map = {}
    names = sorted(tensors)
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = names[number::shards]
        torch.save({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("shards", [1, 2])
def test_pickles_become_safetensors(shards: int, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    folder = pickled(tmp_path / "model", shards)
    before = snapshot(folder)
    workspace = Workspace(tmp_path / "build" / "model")
    artifact, info = checkpoint_for_build(folder, workspace, allow_pickle=True)
    assert snapshot(folder) == before
    assert artifact.format == "hf"
    assert artifact.stage == pickle_import.NAME
    assert info.name == "model"
    assert info.path == artifact.path
    assert not [name for name in artifact.files if "pytorch_model" in name]
    loaded = {k: v for file in info.weight_files for k, v in load_file(file).items()}
    expected = weights()
    expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    assert set(loaded) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(loaded[name], array)
    again, _ = checkpoint_for_build(folder, workspace, allow_pickle=True)
    assert again.digest == artifact.digest
    events = [(event.stage, event.reused) for event in workspace.events]
    assert events == [("import-pickle", False), ("import-pickle", True)]


class Payload:
    """An object whose unpickling runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_code_in_a_pickle_is_refused_not_run(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "model", payload=Payload(tmp_path / "ran"))
    workspace = Workspace(tmp_path / "build" / "model")
    with pytest.raises(UserError, match="holds more than tensors") as caught:
        checkpoint_for_build(folder, workspace, allow_pickle=True)
    assert str(folder) in caught.value.problem
    assert not (tmp_path / "ran").exists()
    assert list(workspace.stages.glob("*import*")) == []
    assert list(workspace.stages.glob(".*")) == []


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / "pytorch_model.bin").write_bytes(b"PK\x03\x04 no zip"), "cannot be read"),
        (lambda f: pickled(f, extra=7), "'extra' is no tensor"),
        (lambda f: edit(f / "config.json", num_hidden_layers=3), "says 3 layers"),
    ],
)
def test_bad_pickles_are_refused(damage, expected: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = pickled(tmp_path / "model")
    damage(folder)
    workspace = Workspace(tmp_path / "build" / "model")
    with pytest.raises(UserError, match=expected) as caught:
        checkpoint_for_build(folder, workspace, allow_pickle=True)
    assert str(folder) in caught.value.problem
    assert list(workspace.stages.glob("*import*")) == []


def test_import_takes_only_pickles(tmp_path: Path) -> None:
    artifact, _ = open_checkpoint(write_checkpoint(tmp_path / "model"), None)
    with pytest.raises(UserError, match="takes pickled weights"):
        pickle_import.run(artifact, pickle_import.Config(), tmp_path)


def test_safetensors_go_before_pickles(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    artifact, info = open_checkpoint(folder, None)
    assert "pytorch_model.bin" not in artifact.files
    assert not dataclasses.replace(info).pickle_only
    assert inspect(folder).pickle_files == ()
