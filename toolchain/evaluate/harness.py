"""Tasks of lm-evaluation-harness (lm-eval, the extra `harness`) on a model of any kind.

    run_harness("demo", ["my_task"], task_path=Path("tasks"), limit=20, options=OpenOptions())

Tasks are those of the harness, and those that YAML files under `task_path` define. With data files
on this machine nothing is fetched.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.errors import UserError, near_names
from toolchain.models import OpenModel, OpenOptions, open_model

_BOOTSTRAP_ROUNDS = 1000  # for standard errors; the harness' 100,000 take minutes
_LONGEST_REASON = 300


def run_harness(
    model: str,
    tasks: Sequence[str],
    *,
    task_path: Path | None = None,
    limit: int | None = None,
    options: OpenOptions,
) -> dict[str, Any]:
    """The harness' figures of every task: `{"model": ..., "tasks": {task: {figure: value}}}`.

    Raises `UserError` without lm-eval, for an unknown task, and for one whose data do not load.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "--harness needs lm-eval, which is not installed",
            "install the extra: pip install 'edgeforge[harness]'",
        )
    if task_path is not None and not task_path.is_dir():
        raise UserError(f"--task-path {task_path} is no folder", "give that of the YAML files")
    own = _manager(task_path, defaults=False) if task_path else None
    # Reading the harness' own thousands of tasks takes seconds; a group may name some of them.
    if own is not None and set(tasks) <= set(own.all_tasks) - set(own.all_groups):
        manager = own
    else:
        manager = _manager(task_path, defaults=True)
    for task in tasks:
        if task not in manager.all_tasks:
            raise UserError(
                f"lm-eval has no task '{task}'",
                near_names(task, own.all_tasks) if own else "lm-eval ls tasks lists them",
            )
    with open_model(model, options) as opened:
        found = _evaluate(opened, tasks, manager, task_path, limit)
        facts = opened.as_json()
    results = {name: _figures(values) for name, values in found["results"].items()}
    samples = {name: counts["effective"] for name, counts in (found.get("n-samples") or {}).items()}
    return {
        "model": facts,
        "lm_eval": version("lm-eval"),
        "tasks": results,
        "samples": samples,
        "limit": limit,
    }


def harness_lines(found: Mapping[str, Any]) -> list[str]:
    """The figures as a table."""
    from toolchain.plan_report import table_text

    rows = [
        (task, figure, f"{value:.4f}" if isinstance(value, float) else str(value))
        for task, figures in found["tasks"].items()
        for figure, value in figures.items()
    ]
    lines = table_text(("task", "figure", "value"), rows)
    counts = ", ".join(f"{task} {count}" for task, count in found["samples"].items())
    return [*lines, "", f"{found['model']['name']}, lm-eval {found['lm_eval']}; asked: {counts}"]


def _manager(task_path: Path | None, *, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    try:
        place = str(task_path.absolute()) if task_path else None
        return TaskManager(include_path=place, include_defaults=defaults)
    except Exception as error:
        raise UserError(f"--task-path {task_path} does not load: {_reason(error)}") from None


def _evaluate(
    model: OpenModel, tasks: Sequence[str], manager: Any, task_path: Path | None, limit: int | None
) -> dict[str, Any]:
    import lm_eval

    from toolchain.evaluate.harness_model import HarnessModel

    asked = HarnessModel(model)
    # Paths of data files in a task's YAML count from its folder.
    place = contextlib.chdir(task_path) if task_path else contextlib.nullcontext()
    try:
        with place:
            found: dict[str, Any] = lm_eval.simple_evaluate(
                model=asked,
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                bootstrap_iters=_BOOTSTRAP_ROUNDS,
                log_samples=False,
            )
    except UserError:
        raise
    except Exception as error:
        if asked.asked:
            raise
        raise UserError(
            f"the data of {', '.join(tasks)} do not load: {_reason(error)}",
            "check network and data set, or define the task with local files: --task-path DIR",
        ) from None
    return found


def _figures(values: Mapping[str, Any]) -> dict[str, Any]:
    """Figures under plain names (`acc`); a filter that is not `none` stays part of the name."""
    figures: dict[str, Any] = {}
    for name, value in values.items():
        metric, comma, chosen = name.partition(",")
        if comma and isinstance(value, int | float):
            figures[metric if chosen == "none" else f"{metric} ({chosen})"] = value
    return figures


def _reason(error: BaseException) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"
