"""What the machine lacks is never taken for a fault of a file, and ends as one error each time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import limits
import pytest
from journeys import Proven
from tiny_gguf import tiny_gguf

from common.errors import Lack
from common.files import reserve, write_json
from runtimes.quantizer import quantize
from toolchain.evaluate.chunks import Chunks
from toolchain.evaluate.reference import write_logits
from toolchain.train import checkpoints

_FORK = multiprocessing.get_context("fork")
_LACK = 7


def _noting_lacks(work: Callable[..., object], *arguments: object) -> None:
    """The exit code tells whether the work ended in a lack."""
    try:
        work(*arguments)
    except Lack:
        raise SystemExit(_LACK) from None


def lacks(work: Callable[..., object], *arguments: object) -> bool:
    """Whether the work, in a process of its own, ends in a lack."""
    process = _FORK.Process(target=_noting_lacks, args=(work, *arguments))
    process.start()
    process.join()
    return process.exitcode == _LACK


def _drop(folder: Path) -> None:
    limits.no_rights()
    checkpoints.drop_incomplete(folder)


def test_a_checkpoint_that_cannot_be_read_is_not_removed(tmp_path: Path, proven: Proven) -> None:
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    (checkpoint / "weights").write_bytes(b"weights")
    checkpoints.seal(checkpoint)
    (checkpoint / checkpoints.SEAL).chmod(0)
    assert lacks(_drop, tmp_path)
    (checkpoint / checkpoints.SEAL).chmod(0o644)
    assert checkpoints.newest(tmp_path) == checkpoint
    write_json(checkpoint / checkpoints.SEAL, {"weights": 8})  # this one is no lack
    assert not lacks(_drop, tmp_path)
    assert not checkpoint.exists()
    proven("2 resources", "a checkpoint that cannot be read stays", 1, "cases")


def _quantize(source: Path, target: Path) -> None:
    limits.file_size(4096)
    quantize(source, target, "Q8_0")


def test_a_file_that_cannot_be_written_is_no_fault_of_its_type(tmp_path: Path) -> None:
    source = tiny_gguf(tmp_path / "model-F32.gguf")
    assert lacks(_quantize, source, tmp_path / "model-Q8_0.gguf")


def test_a_full_disk_finds_no_map_of_a_file(tmp_path: Path) -> None:
    """Written through a map, a file with holes would end the process with SIGBUS."""
    chunks = Chunks(((1, 2, 3),), 3)
    with limits.small_disk(tmp_path / "disk", 1 << 20) as disk:
        with pytest.raises(OSError, match="No space left"):
            reserve(disk / "it", 1 << 21)
        with pytest.raises(OSError, match="No space left"):
            write_logits(disk / "logits", chunks, 1 << 19, lambda _: pytest.fail("too late"))
