"""What watches a training: progress for people, checkpoints that are whole, a loss that is none."""

from __future__ import annotations

import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from common.files import write_json
from common.progress import progress_bar

COMPLETE = "complete.json"
_LINE_SEC = 10.0


class Progress(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """A bar on a terminal, else a line now and then: step, loss, rate, tokens/s, time left."""

    def __init__(self, tokens_per_step: float) -> None:
        self._tokens_per_step = tokens_per_step
        self._start = self._last_line = time.perf_counter()
        self._first_step = 0
        self._bar: Any = None
        self._loss = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._start = self._last_line = time.perf_counter()
        self._first_step = state.global_step
        self._bar = progress_bar("training", unit="step", total=state.max_steps)
        self._bar.update(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            self._loss = f"loss {logs['loss']:.4g}, rate {logs['learning_rate']:.3g}"
            self._line(state)
        elif "eval_loss" in logs:
            scores = ", ".join(
                f"{name.removeprefix('eval_')} {logs[name]:.4g}"
                for name in ("eval_loss", "eval_accuracy", "eval_macro_f1")
                if name in logs
            )
            self._say(f"step {state.global_step}/{state.max_steps}: validation {scores}")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def _line(self, state: Any) -> None:
        now = time.perf_counter()
        done = state.global_step - self._first_step
        sec_per_step = (now - self._start) / max(done, 1)
        left = int((state.max_steps - state.global_step) * sec_per_step)
        speed = f"{self._tokens_per_step / sec_per_step:,.0f} tokens/s"
        if not self._bar.disable:
            self._bar.set_postfix_str(self._loss)
            return
        if now - self._last_line >= _LINE_SEC or state.global_step == state.max_steps:
            self._last_line = now
            eta = f"{left // 60}:{left % 60:02d} left"
            self._say(f"step {state.global_step}/{state.max_steps}: {self._loss}, {speed}, {eta}")

    def _say(self, line: str) -> None:
        self._bar.write(line, file=sys.stderr)


class WholeCheckpoints(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Marks a checkpoint once all of it is written, so that half a one is never gone on from."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(folder / COMPLETE, {"step": state.global_step})


class StopAtNoNumber(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Stops when the loss is no number, before such weights are saved."""

    def __init__(self) -> None:
        self.step: int | None = None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        losses = [(logs or {}).get(name) for name in ("loss", "eval_loss", "grad_norm")]
        if any(value is not None and not math.isfinite(value) for value in losses):
            self.step = self.step or state.global_step
            control.should_training_stop = True
        if self.step is not None:
            control.should_save = control.should_evaluate = False


def last_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint; what a kill left half-written is removed."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        if (path / COMPLETE).is_file():
            found.append((int(path.name.rsplit("-", 1)[1]), path))
        else:
            shutil.rmtree(path, ignore_errors=True)
    return max(found)[1] if found else None
