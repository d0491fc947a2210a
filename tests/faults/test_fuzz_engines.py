"""Damaged files that reach an engine through the real command: what crashes it is told as bad
input, with exit code 2."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fuzz_commands import Ended, run_command
from fuzz_gguf import damaged_file, fields, lying_file
from fuzz_onnx import GRAPH, damaged_graph, tiny_classifier, tiny_decoder
from tiny_gguf import tiny_gguf

CASES, QUICK = 300, 16
pytestmark = pytest.mark.timeout(7200)  # each case has its own


def test_damaged_gguf_in_llama_cpp(tmp_path: Path, whole: bool, proven: Any) -> None:
    file = tiny_gguf(tmp_path / "good.gguf", hidden=64, ffn=64, heads=2, layers=1, byte_tokens=True)
    data = file.read_bytes()
    known = fields(data)
    assert run_command(_generate(file), tmp_path).code == 0

    def make(case: int, work: Path) -> list[object]:
        random = Random(f"llama.cpp {case}")
        damage = damaged_file if case % 3 == 0 else lying_file
        (work / "model.gguf").write_bytes(damage(random, data, known))
        return _generate(work / "model.gguf")

    _prove(make, tmp_path, whole, proven, "GGUF through llama.cpp")


def test_damaged_onnx_in_onnxruntime(tmp_path: Path, whole: bool, proven: Any) -> None:
    decoder, classifier = tiny_decoder(tmp_path / "a"), tiny_classifier(tmp_path / "b")
    assert run_command(_generate(decoder), tmp_path).code == 0
    assert run_command(["classify", classifier, "turn on the lamp"], tmp_path).code == 0

    def make(case: int, work: Path) -> list[object]:
        random = Random(f"onnxruntime {case}")
        good = decoder if case % 2 else classifier
        for path in good.iterdir():
            (work / path.name).hardlink_to(path)
        (work / GRAPH).unlink()
        (work / GRAPH).write_bytes(damaged_graph(random, (good / GRAPH).read_bytes()))
        return _generate(work) if case % 2 else ["classify", work, "turn on the lamp"]

    _prove(make, tmp_path, whole, proven, "ONNX through onnxruntime")


def _generate(file: Path) -> list[object]:
    return ["generate", file, "the <|end|> \u00e9\u4e2d", "--raw", "--max-tokens", 3]


def _prove(
    make: Callable[[int, Path], list[object]],
    folder: Path,
    whole: bool,
    proven: Callable[..., None],
    what: str,
) -> None:
    started, cases = time.monotonic(), CASES if whole else QUICK
    faults: dict[str, list[int]] = {}
    ends: Counter[str] = Counter()
    for case in range(cases):
        work = folder / f"case-{case}"
        work.mkdir()
        ended = run_command(make(case, work), work)
        ends[_kind(ended)] += 1
        if ended.fault:
            faults.setdefault(ended.fault, []).append(case)
    lines = [f"{len(cases)}x, first {cases[0]}: {fault}" for fault, cases in faults.items()]
    if lines:
        pytest.fail("\n".join([str(dict(ends)), *lines[:20]]), pytrace=False)
    assert ends["refused"] + ends["crash told"] > cases / 4
    proven("4 hostile files", what, cases, "mutations", time.monotonic() - started)


def _kind(ended: Ended) -> str:
    if ended.code == 2:
        return "crash told" if "crashed on" in ended.err else "refused"
    return "taken" if ended.code == 0 else "fault"
