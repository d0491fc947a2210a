"""Prove on this very machine that a bundle works: digests, answers, stop tokens, speed, memory.

One file for a bare device: Python 3.8 or newer, its standard library, and an engine. For GGUF that
is the first that works of Ollama, llama-server, llama.cpp's other programs and llama-cpp-python,
for ONNX onnxruntime. It lies in every bundle and takes everything else from there:

    python3 smoke_test.py                # a table; exit code 0 passed, 1 failed, 2 cannot run
    python3 smoke_test.py --json result.json --threads 4 --engine llama-server

Nothing is loaded before SHA256SUMS is verified. The greedy answers must equal those that were
recorded when the bundle was built; on another engine or CPU, whose kernels round differently, the
profile's share of them must. Speed limits come from profile.json too, scaled by memory bandwidth
here over the target's, because decoding reads every weight once per token; prefill computes, so its
limit is scaled by usable cores as well.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from .bundle import CannotRun
from .checks import PASSED
from .find import AUTO, engine_names
from .record import record
from .speed_only import run_speed
from .table import table
from .whole_test import Settings, run_test

EXIT_PASSED, EXIT_FAILED, EXIT_CANNOT_RUN, EXIT_STOPPED = 0, 1, 2, 130


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Prove that this bundle works here: digests, answers, stop tokens, speed.",
        epilog="exit code: 0 passed, 1 failed, 2 cannot run",
    )
    here = Path(__file__).resolve().parent
    parser.add_argument(
        "--bundle", type=Path, default=here, help="the bundle (default: this folder)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here as JSON")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads (default: the best found)"
    )
    parser.add_argument("--quick", action="store_true", help="one repetition, no thread sweep")
    parser.add_argument(
        "--engine",
        default=AUTO,
        metavar="NAME",
        help=f"{', '.join(engine_names())}, or {AUTO} (default): the first of them that works",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="where this device's proc and sys are, inside a container (default: /)",
    )
    parser.add_argument(
        "--speed-only", action="store_true", help="speed alone, of a model that is no bundle yet"
    )
    parser.add_argument("--record", action="store_true", help="record the answers (while building)")
    options = parser.parse_args(arguments)
    if options.threads is not None and options.threads < 1:
        parser.error("--threads must be at least 1")
    return options


def leave(_number: int, _frame: Any) -> None:
    """A connection that closes, or a time limit: as Ctrl-C, so that engines are stopped."""
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, leave)
    try:
        if options.record:
            data, passed = record(options.bundle, options.threads), True
            print("recorded with {name} {version}".format(**data))
        else:
            settings = Settings(options.threads, options.quick, options.engine, options.root)
            test = run_speed if options.speed_only else run_test
            result = test(options.bundle, settings)
            data, passed = result.as_json(), result.verdict == PASSED
            print(table(result))
        if options.json:
            text = json.dumps(data, indent=2, ensure_ascii=False)
            options.json.write_text(text + "\n", encoding="utf-8")
    except (CannotRun, OSError, KeyError) as error:
        print(f"smoke test cannot run: {error}", file=sys.stderr)
        return EXIT_CANNOT_RUN
    except KeyboardInterrupt:
        print("smoke test stopped", file=sys.stderr)
        return EXIT_STOPPED
    return EXIT_PASSED if passed else EXIT_FAILED
