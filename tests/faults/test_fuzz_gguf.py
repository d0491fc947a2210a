"""Damaged GGUF files, against everything of ours that reads them: models, adapters, importance
matrices. What llama.cpp makes of them is `test_fuzz_engines`' matter."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from random import Random
from typing import Any

import gguf
import numpy as np
import pytest
from fuzz_gguf import damaged_file, fields
from fuzz_sandbox import Silent, each, run_cases
from tiny_gguf import tiny_gguf

from runtimes.gguf_file import open_tensors, read_metadata, read_tensor_types
from runtimes.gguf_header import read_header
from runtimes.imatrix_file import Imatrix, ImatrixEntry, read_imatrix, write_imatrix
from toolchain.encoder_kinds.gguf import task_of

CASES, QUICK = 10_000, 400
pytestmark = pytest.mark.timeout(7200)  # each case has its own


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    sizes = {"hidden": 32, "ffn": 32, "heads": 2, "kv_heads": 1, "layers": 1}
    tiny_gguf(folder / "model.gguf", **sizes, byte_tokens=True)
    entry = ImatrixEntry(np.ones((1, 32), np.float32), np.ones(1, np.float32))
    entries = {"blk.0.attn_q.weight": entry, "blk.0.ffn_down.weight": entry}
    write_imatrix(folder / "imatrix.gguf", Imatrix(entries, 4, 512, ["a.txt", "b.txt"]))
    return {path.name: path.read_bytes() for path in folder.glob("*.gguf")}


def test_damaged_gguf(good: dict[str, bytes], tmp_path: Path, whole: bool, proven: Any) -> None:
    cases = range(CASES if whole else QUICK)
    known = {name: fields(data) for name, data in good.items()}

    def read(case: int, work: Path) -> None:
        random = Random(f"gguf {case}")
        name = "imatrix.gguf" if case % 4 == 0 else "model.gguf"
        file = work / name
        file.write_bytes(damaged_file(random, good[name], known[name]))
        each(
            lambda: read_metadata(file),
            lambda: read_tensor_types(file),
            lambda: open_tensors(file),
            lambda: task_of(file),
            lambda: read_imatrix(file).importances(),
        )
        _require_whole(file, good[name])

    started = time.monotonic()
    outcome = run_cases(cases, read, tmp_path)
    if outcome.faults:
        pytest.fail(outcome.told(), pytrace=False)
    assert outcome.counts["refused"] > len(cases) / 3
    proven("4 hostile files", "GGUF", len(cases), "mutations", time.monotonic() - started)


def _require_whole(file: Path, good: bytes) -> None:
    """What was taken covers the file's data from the first byte to the last, without a gap, and
    gguf's own reader finds the same tensors there."""
    header, size = read_header(file), file.stat().st_size
    spans = [(one.offset, one.offset + one.size_bytes) for one in header.tensors]
    for (_, end), (start, _) in itertools.pairwise(spans):
        if not 0 <= start - end < 4096:
            raise Silent(f"a tensor begins at {start}, the one before ends at {end}")
    if spans and not spans[-1][1] <= size < spans[-1][1] + 4096:
        raise Silent(f"{size} bytes, the last tensor ends at {spans[-1][1]}")
    theirs = {t.name: (t.data_offset, t.n_bytes) for t in gguf.GGUFReader(file).tensors}
    if theirs != {one.name: (one.offset, one.size_bytes) for one in header.tensors}:
        raise Silent("gguf reads other tensors")
