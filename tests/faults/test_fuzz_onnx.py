"""Damaged ONNX folders, against everything that reads them: graphs with and without numbers of
their own, and the JSON beside them.

A graph that ends onnxruntime's whole process is given to the command itself, which has to say so.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fuzz_commands import run_command
from fuzz_mutators import damaged, damaged_json
from fuzz_onnx import DATA, GRAPH, damaged_graph, tiny_classifier, tiny_decoder
from fuzz_sandbox import each, run_cases

from runtimes.genai import _config as genai_config
from runtimes.ort import SessionSettings, open_session
from runtimes.ort_cache import OrtSequences
from runtimes.ort_encoder import open_encoder, read_facts
from runtimes.ort_graph import decoder_graph
from runtimes.timed_ort import weight_bytes_per_token
from toolchain.export.onnx.graph_file import load_graph

CASES, QUICK = 10_000, 300
pytestmark = pytest.mark.timeout(7200)  # each case has its own
SETTINGS = SessionSettings(threads=1, spinning=False)
PROMPT = [5, 6, 7]
# Lets everything of ours read a folder that lies there.
Read = Callable[[], None]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    tiny_decoder(root / "decoder")
    tiny_classifier(root / "classifier")
    return root


def test_damaged_onnx(good: Path, tmp_path: Path, whole: bool, proven: Any) -> None:
    cases = range(CASES if whole else QUICK)

    def made(case: int, work: Path) -> Read:
        return _MAKERS[case % len(_MAKERS)](Random(f"onnx {case}"), good, work)

    started = time.monotonic()
    outcome = run_cases(cases, lambda case, work: made(case, work)(), tmp_path)
    crashed = [case for case, what in outcome.faults if what.startswith("crash")]
    outcome.faults = [fault for fault in outcome.faults if fault[0] not in crashed]
    for case in crashed:
        work = tmp_path / f"case-{case}"
        work.mkdir()
        made(case, work)
        ended = run_command(_words(work), work)
        if ended.fault:
            outcome.faults.append((case, ended.fault))
        shutil.rmtree(work)
    if outcome.faults:
        pytest.fail(outcome.told(), pytrace=False)
    seconds = time.monotonic() - started
    proven("4 hostile files", "ONNX", len(cases), "mutations", seconds)
    if crashed:
        unit = "mutations told by the command"
        proven("4 hostile files", "ONNX that ends onnxruntime's process", len(crashed), unit)


def _words(folder: Path) -> list[object]:
    if (folder / "encoder.json").is_file():
        return ["classify", folder, "turn on the lamp"]
    return ["generate", folder, "turn on the lamp", "--raw", "--max-tokens", 3]


def _decoder(random: Random, good: Path, work: Path) -> Read:
    graph = damaged_graph(random, (good / "decoder" / GRAPH).read_bytes())
    _copy(good / "decoder", work, {GRAPH: graph})

    def read() -> None:
        each(lambda: load_graph(work / GRAPH), lambda: weight_bytes_per_token(work / GRAPH))
        _run_decoder(work)

    return read


def _beside(random: Random, good: Path, work: Path) -> Read:
    data = (good / "decoder" / DATA).read_bytes()
    _copy(good / "decoder", work, {DATA: damaged(random, data)})
    return lambda: _run_decoder(work)


def _classifier(random: Random, good: Path, work: Path) -> Read:
    graph = damaged_graph(random, (good / "classifier" / GRAPH).read_bytes())
    _copy(good / "classifier", work, {GRAPH: graph})
    return lambda: _run_classifier(work)


def _facts(random: Random, good: Path, work: Path) -> Read:
    facts = json.loads((good / "classifier" / "encoder.json").read_text("utf-8"))
    _copy(good / "classifier", work, {"encoder.json": damaged_json(random, facts)})

    def read() -> None:
        read_facts(work)
        _run_classifier(work)

    return read


def _config(random: Random, good: Path, work: Path) -> Read:
    name = random.choice(("genai_config.json", "config.json"))
    config = json.loads((good / "decoder" / name).read_text("utf-8"))
    _copy(good / "decoder", work, {name: damaged_json(random, config)})
    return lambda: each(lambda: genai_config(work), lambda: _run_decoder(work))


_MAKERS: tuple[Callable[[Random, Path, Path], Read], ...] = (
    _decoder, _decoder, _beside, _classifier, _facts, _config,
)  # fmt: skip


def _run_decoder(folder: Path) -> None:
    session = open_session(folder / GRAPH, SETTINGS)
    graph = decoder_graph(session, folder / GRAPH)
    sequences = OrtSequences(session, graph, folder / GRAPH, [PROMPT], 2)
    row = sequences.prefill()
    sequences.step([int(row[0].argmax())])


def _run_classifier(folder: Path) -> None:
    with open_encoder(folder, SETTINGS) as model:
        model.scores(["turn on the lamp", "a"])  # type: ignore[attr-defined]


def _copy(folder: Path, work: Path, changed: dict[str, bytes]) -> None:
    """The folder's files as links, but for those that are changed."""
    for path in folder.iterdir():
        if path.name not in changed:
            os.link(path, work / path.name)
    for name, data in changed.items():
        (work / name).write_bytes(data)
