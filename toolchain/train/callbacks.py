"""What happens between steps: when to log, validate, save and end; progress; TensorBoard.

Imported by the worker process alone.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from common.progress import progress_bar
from toolchain.train.points import Points
from toolchain.train.result import losses_of

_LINE_EVERY_SEC = 15.0
_FLUSH_EVERY_SEC = 10  # a flush at every step would cost small models a few percent


class Steering(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Follows the `Points`; ends a run whose validation loss has not fallen `patience` times."""

    def __init__(self, points: Points, patience: int | None) -> None:
        self._points = points
        self._patience = patience

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = state.global_step
        control.should_log = self._points.logs(step)
        control.should_evaluate = step in self._points.evaluate
        control.should_save = step in self._points.save

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        losses = losses_of(state.log_history)
        since_best = len(losses) - 1 - losses.index(min(losses))
        if self._patience is not None and since_best >= self._patience:
            control.should_training_stop = True


class Progress(TrainerCallback):  # type: ignore[misc]
    """Loss, rate, tokens a second and what is left: a bar on a terminal, else a line now and then.

    `tokens_per_step` is the mean over the rows."""

    def __init__(self, total_steps: int, tokens_per_step: float) -> None:
        self._total = total_steps
        self._tokens = tokens_per_step
        self._bar = progress_bar("training", unit="step", total=total_steps)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._first = state.global_step
        self._start = self._last_line = time.monotonic()
        self._bar.update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        now = time.monotonic()
        if not logs:
            return
        if "eval_loss" in logs:
            shown = {k.removeprefix("eval_"): v for k, v in logs.items() if k.startswith("eval_")}
            figures = ", ".join(f"{name.replace('_', ' ')} {v:.4f}" for name, v in shown.items())
            self._say(f"validation at step {state.global_step}: {figures}")
        elif "learning_rate" in logs:
            line = self._line(state.global_step, logs, now - self._start)
            self._bar.set_postfix_str(line, refresh=False)
            due = now - self._last_line >= _LINE_EVERY_SEC
            if self._bar.disable and (due or state.global_step == self._total):
                self._last_line = now
                self._say(f"step {state.global_step}/{self._total}: {line}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.close()

    def _line(self, step: int, logs: Any, elapsed_sec: float) -> str:
        per_sec = (step - self._first) / max(elapsed_sec, 1e-9)
        left_sec = int((self._total - step) / max(per_sec, 1e-9))
        minutes, seconds = divmod(left_sec, 60)
        return (
            f"loss {logs['loss']:.4f}, learning rate {logs['learning_rate']:.2e}, "
            f"{per_sec * self._tokens:.0f} tokens/s, {minutes}:{seconds:02d} left"
        )

    def _say(self, line: str) -> None:
        self._bar.write(line, file=sys.stderr)
        sys.stderr.flush()


class Board(TrainerCallback):  # type: ignore[misc]
    """Writes what is logged for TensorBoard; a run that goes on takes back what it repeats."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(  # type: ignore[no-untyped-call, unused-ignore]
            str(self._folder),
            purge_step=state.global_step + 1 if state.global_step else None,
            flush_secs=_FLUSH_EVERY_SEC,
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        for name, value in (logs or {}).items():
            if isinstance(value, float) and name != "epoch":
                tag = name.replace("eval_", "validation/") if "eval_" in name else f"train/{name}"
                self._writer.add_scalar(tag, value, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._writer.flush()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._writer.close()
