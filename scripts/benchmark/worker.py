"""One engine in a process of its own, driven by JSON lines: a command on stdin, an answer on
stdout.

    {"command": "load", "kind": "decoder", "engine": "torch", "path": "...", "cores": [0, 1],
     "options": {"threads": 2, "context_tokens": 300}}
    {"command": "request", "tokens": [1, 2, 3], "count": 32}

An answer is an object; a fault is `{"error": {"problem": ..., "mend": ...}}`. What engines print
goes to stderr. Peak memory is this process's own (Linux: VmHWM, which a parent's memory does not
enter, unlike `ru_maxrss`); pages of a mapped model file count in it once they were read.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import UserError
from runtimes.cores import pin
from runtimes.timed import TimedDecoder, TimedEncoder, TimedOptions, open_decoder, open_encoder

Answer = dict[str, Any]


class Worker:
    """Holds the engine; each public method is a command and its arguments."""

    def __init__(self) -> None:
        self._decoder: TimedDecoder | None = None
        self._encoder: TimedEncoder | None = None

    def load(self, kind: str, engine: str, path: str, options: Answer, cores: list[int]) -> Answer:
        """Pin the process, then load the model on threads that inherit the pinning."""
        pinned = pin(cores) if cores else False
        start = time.perf_counter()
        chosen = TimedOptions(**options)
        if kind == "decoder":
            self._decoder = open_decoder(engine, Path(path), chosen)
            facts = {**self._decoder.facts, "serving": self._decoder.serving}
        else:
            self._encoder = open_encoder(engine, Path(path), chosen)
            facts = dict(self._encoder.facts)
        return {"load_sec": time.perf_counter() - start, "pinned": pinned, "facts": facts}

    def prefill(self, tokens: list[int]) -> Answer:
        return {"ttft_sec": self._need_decoder().prefill(tokens)}

    def decode(self, count: int) -> Answer:
        return {"step_secs": self._need_decoder().decode(count)}

    def request(self, tokens: list[int], count: int) -> Answer:
        """Prefill and the further tokens of an answer of `count`."""
        decoder = self._need_decoder()
        ttft_sec = decoder.prefill(tokens)
        return {"ttft_sec": ttft_sec, "step_secs": decoder.decode(count - 1)}

    def serve(self, prompts: list[list[int]], count: int, clients: int) -> Answer:
        return asdict(self._need_decoder().serve(prompts, count, clients))

    def logits(self, tokens: list[int], file: str) -> Answer:
        """Write `[tokens, vocabulary]` float32 to a .npy file."""
        import numpy as np

        np.save(file, self._need_decoder().logits(tokens))
        return {}

    def encode(
        self, tokens: list[list[int]], min_sec: float, max_runs: int, warm_up: int
    ) -> Answer:
        """Repeat one batch until `min_sec` have passed or `max_runs` are done."""
        import numpy as np

        encoder, batch = self._need_encoder(), np.asarray(tokens, dtype=np.int64)
        for _ in range(warm_up):
            encoder.encode(batch)
        secs: list[float] = []
        while len(secs) < max_runs and (not secs or sum(secs) < min_sec):
            secs.append(encoder.encode(batch))
        return {"secs": secs}

    def outputs(self, tokens: list[list[int]], mask: list[list[int]], file: str) -> Answer:
        """Write an encoder's results for one batch to a .npy file."""
        import numpy as np

        ids, ones = np.asarray(tokens, dtype=np.int64), np.asarray(mask, dtype=np.int64)
        np.save(file, self._need_encoder().outputs(ids, ones))
        return {}

    def bandwidth(self, threads: int, cores: list[int]) -> Answer:
        """Memory read bandwidth on these cores."""
        from runtimes.host import measure_bandwidth_bytes_per_sec

        if cores:
            pin(cores)
        return {"bytes_per_sec": measure_bandwidth_bytes_per_sec(threads)}

    def memory(self) -> Answer:
        return {"peak_rss_bytes": peak_rss_bytes()}

    def close(self) -> None:
        for model in (self._decoder, self._encoder):
            if model is not None:
                model.close()
        self._decoder = self._encoder = None

    def _need_decoder(self) -> TimedDecoder:
        if self._decoder is None:
            raise UserError("no decoder is loaded")
        return self._decoder

    def _need_encoder(self) -> TimedEncoder:
        if self._encoder is None:
            raise UserError("no encoder is loaded")
        return self._encoder


COMMANDS = (
    *("load", "prefill", "decode", "request", "serve", "logits"),
    *("encode", "outputs", "memory", "bandwidth"),
)


def peak_rss_bytes(root: Path = Path("/")) -> int:
    """The largest resident size that this process ever had."""
    try:
        status = (root / "proc/self/status").read_text(encoding="utf-8")
        if match := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
            return int(match[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def answer(worker: Worker, line: str) -> Answer:
    """Do what a line asks. Faults become answers, so that the process lives on."""
    try:
        request = json.loads(line)
        name = request.pop("command")
        if name not in COMMANDS:
            raise UserError(f"unknown command '{name}'", f"one of {', '.join(COMMANDS)}, quit")
        method: Callable[..., Answer] = getattr(worker, name)
        return method(**request)
    except UserError as error:
        return {"error": {"problem": error.problem, "mend": error.mend}}
    except MemoryError:
        mend = "close other programs, or measure on a machine with more memory"
        return {"error": {"problem": "not enough memory", "mend": mend}}
    except Exception as error:
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        return {"error": {"problem": problem, "mend": ""}}


def main() -> None:
    """Answer commands until `quit` or the end of stdin."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # engines print; stdout is for answers alone
    worker = Worker()
    for line in sys.stdin:
        if not line.strip():
            continue
        if json.loads(line).get("command") == "quit":
            break
        answers.write(json.dumps(answer(worker, line)) + "\n")
        answers.flush()
    worker.close()


if __name__ == "__main__":
    main()
