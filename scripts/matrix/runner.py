"""Every cell in a process of its own with a time limit: an engine that crashes or hangs is a cell.

Processes are forked from one that has the heavy libraries loaded, so that a cell costs what it does
and not its imports. A finished cell is kept as a file named by its key (versions of tools and
stages, the family's row): only what changed is run again.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tiny_families import ROPES, TOKENIZERS  # type: ignore[import-not-found]

from common.errors import UserError
from common.files import read_json, sha256_json, write_json
from matrix import cells
from matrix.place import Place, make

LIMIT_SEC = 150.0
WORKS, LIMITED, REFUSED, FAULT, SKIPPED = "works", "limit", "refused", "fault", "skipped"
_PRELOADED = ["torch", "transformers", "peft", "llama_cpp", "onnxruntime", "onnx", "matrix.warm"]
_FIRST_LINE = 400
# Cells that are refused with the one that they build on.
NEEDS = {
    "merge": "finetune",
    **dict.fromkeys((*cells.GGUF_TYPES, "ollama"), "gguf"),
    "onnx-int8": "onnx",
}


@dataclass(frozen=True)
class Result:
    """One cell. `details` are limits, the reason of a refusal, or the last words of a fault."""

    family: str
    cell: str
    verdict: str
    details: tuple[str, ...] = ()
    mend: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    wall_sec: float = 0.0
    key: str = ""


def run_all(
    places: Sequence[Place],
    wanted: Callable[[str], bool],
    versions: Mapping[str, str],
    *,
    workers: int,
    again: frozenset[str],
    say: Callable[[str], None],
) -> list[Result]:
    """Every wanted cell of the families, finished ones taken as they are unless their verdict is in
    `again`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    waiting: queue.Queue[Place] = queue.Queue()
    for place in places:
        waiting.put(place)
    found: list[Result] = []

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                place = waiting.get_nowait()
                for result in _family(context, place, wanted, versions, again):
                    found.append(result)
                    say(_line(result))

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def cells_of(place: Place) -> Mapping[str, cells.Cell]:
    """The cells of this kind of model; of one more rope scaling the exports, of a tokenizer its
    file."""
    if place.family in TOKENIZERS:
        return {name: cells.DECODER_CELLS[name] for name in ("load", "gguf")}
    if place.row.rope and place.family in ROPES:
        names = ("load", "gguf", "onnx")
        return {name: cells.DECODER_CELLS[name] for name in names}
    return cells.ENCODER_CELLS if place.row.task else cells.DECODER_CELLS


def _family(
    context: Any,
    place: Place,
    wanted: Callable[[str], bool],
    versions: Mapping[str, str],
    again: frozenset[str],
) -> Iterable[Result]:
    place.folder.mkdir(parents=True, exist_ok=True)
    key = sha256_json({"row": repr(place.row), "versions": dict(versions), "small": place.small})
    if not (place.checkpoint / "config.json").is_file() or _kept(place, "made", key) is None:
        made = _run(context, place, "make", key)
        if made.verdict != WORKS:
            yield made
            return
        write_json(_file(place, "made"), {"key": key})
    found: dict[str, Result] = {}
    for name in cells_of(place):
        if not wanted(name):
            continue
        before = found.get(NEEDS.get(name, ""))
        if before is not None and before.verdict in (REFUSED, FAULT):
            found[name] = replace(before, cell=name, wall_sec=0.0)
            write_json(_file(place, name), asdict(found[name]))
            yield found[name]
            continue
        kept = _kept(place, name, key)
        if kept is not None and kept.verdict not in again:
            found[name] = kept
            yield kept
            continue
        found[name] = _run(context, place, name, key)
        write_json(_file(place, name), asdict(found[name]))
        yield found[name]


def _file(place: Place, name: str) -> Path:
    return place.folder / "cells" / f"{name.replace(' ', '-')}.json"


def _kept(place: Place, name: str, key: str) -> Result | None:
    path = _file(place, name)
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        return None
    saved = read_json(path)
    if saved.get("key") != key:
        return None
    if name == "made":
        return Result(place.family, name, WORKS)
    return Result(**{**saved, "details": tuple(saved["details"])})


def _run(context: Any, place: Place, name: str, key: str) -> Result:
    start = time.perf_counter()
    log = place.folder / "cells" / f"{name.replace(' ', '-')}.log"
    log.parent.mkdir(exist_ok=True)
    answer = log.with_suffix(".answer")
    answer.unlink(missing_ok=True)
    process = context.Process(target=_in_child, args=(place, name, log, answer))
    process.start()
    process.join(LIMIT_SEC)
    late = process.is_alive()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # with whatever it started
    process.join()
    wall_sec = round(time.perf_counter() - start, 2)
    if late:
        said: dict[str, Any] = {"verdict": FAULT, "details": (f"not done in {LIMIT_SEC:.0f} s",)}
    elif answer.is_file():
        said = json.loads(answer.read_text(encoding="utf-8"))
        answer.unlink()
    else:
        how = f"signal {-process.exitcode}" if process.exitcode < 0 else f"code {process.exitcode}"
        said = {"verdict": FAULT, "details": (f"the process ended with {how}",)}
    said["details"] = tuple(said.get("details", ()))
    return Result(place.family, name, wall_sec=wall_sec, key=key, **said)


def _in_child(place: Place, name: str, log: Path, answer: Path) -> None:
    os.setsid()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    from matrix.forks import use_forks

    torch.set_num_threads(1)
    use_forks()
    answer.write_text(json.dumps(_answer(place, name)), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # libraries' own ends are not what is measured


def _answer(place: Place, name: str) -> dict[str, Any]:
    try:
        if name == "make":
            make(place)
            return {"verdict": WORKS}
        outcome = cells_of(place)[name](place)
    except UserError as error:
        return {
            "verdict": REFUSED,
            "details": [_plain(line, place) for line in (error.problem, *error.details)],
            "mend": _plain(error.mend, place),
        }
    except cells.NotHere as reason:
        return {"verdict": SKIPPED, "details": [str(reason)]}
    except Exception as error:
        import traceback

        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        return {"verdict": FAULT, "details": [f"{type(error).__name__}: {first[:_FIRST_LINE]}"]}
    verdict = LIMITED if outcome.limits else WORKS
    limits = [_plain(limit, place) for limit in outcome.limits]
    return {"verdict": verdict, "details": limits, "figures": dict(outcome.figures)}


def _plain(text: str, place: Place) -> str:
    """Without the folders of this run."""
    return text.replace(f"{place.folder}/", "").replace(str(place.folder), place.family)


def _line(result: Result) -> str:
    details = f": {result.details[0][:150]}" if result.details else ""
    place = f"{result.family:15} {result.cell:14}"
    return f"{place} {result.verdict:8} {result.wall_sec:6.1f} s{details}"
