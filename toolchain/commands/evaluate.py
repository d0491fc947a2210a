"""`edgeforge evaluate`: figures of a model, alone or side by side with another."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.shell import typed_path
from toolchain.options import add_model_argument, add_options, count

if TYPE_CHECKING:
    from toolchain.evaluate.compare import Evaluation, Settings
    from toolchain.models import OpenOptions

HELP = "perplexity, KLD, task and label scores of a model, alone or against another"
EXAMPLES = (
    "edgeforge evaluate demo",
    "edgeforge evaluate build/edgeforge-demo/laptop --against demo",
    "edgeforge evaluate MODEL --task test.jsonl --metrics exact_match,bleu --answers answers.csv",
    "edgeforge evaluate MODEL --harness my_task --task-path tasks --limit 100",
    "edgeforge evaluate CLASSIFIER --task test.csv --map label=rating --against OTHER",
)
NONE = "none"
_EXAMPLES = 200
_SHOWN_ANSWERS = 5
_SHOWN_CHARACTERS = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_model_argument(parser)
    parser.add_argument("--against", metavar="OTHER", help="compare with this model, of any kind")
    parser.add_argument(
        "--text",
        metavar="FILE",
        help="held-out text; none leaves it out (default: the checkpoint's, else the project's)",
    )
    parser.add_argument(
        "--task",
        metavar="FILE",
        help="test set: .jsonl of messages and answer, for a classifier rows of text and label; "
        "none leaves it out (default: checkpoint's)",
    )
    parser.add_argument(
        "--metrics",
        metavar="NAMES",
        default="exact_match,f1",
        help="of exact_match, f1, bleu, rouge, chrf, accuracy (default: exact_match,f1)",
    )
    parser.add_argument(
        "--max-tokens",
        type=count,
        metavar="N",
        help="length of an answer (default: the longest right one and a little)",
    )
    parser.add_argument(
        "--examples",
        type=count,
        metavar="N",
        help="ask at most N, chosen by --seed (default: 200; a classifier: all)",
    )
    parser.add_argument(
        "--text-tokens",
        type=count,
        default=4096,
        metavar="N",
        help="measure at most N tokens of the text, chosen by --seed (default: 4096)",
    )
    parser.add_argument(
        "--context",
        type=count,
        default=2048,
        metavar="N",
        help="context in tokens that the model is opened with (default: 2048)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of choices (default: 0)")
    parser.add_argument(
        "--exact", action="store_true", help="GGUF: F32 KV cache, no flash attention, as torch"
    )
    parser.add_argument(
        "--answers", type=Path, metavar="FILE", help="write all answers: .jsonl or .csv"
    )
    parser.add_argument(
        "--harness",
        metavar="TASK[,TASK]",
        help="tasks of lm-evaluation-harness instead (needs the extra harness)",
    )
    parser.add_argument(
        "--limit", type=count, metavar="N", help="--harness: the first N examples of each task"
    )
    parser.add_argument(
        "--task-path", type=Path, metavar="DIR", help="--harness: folder with tasks as YAML files"
    )
    add_options(parser, "map", "base", "json", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Print the figures. Raises `UserError` for bad input."""
    from toolchain.encoders import encoder_task
    from toolchain.evaluate.generate import check_answers_path
    from toolchain.models import OpenOptions

    if args.answers:
        check_answers_path(args.answers)
    options = OpenOptions(
        context_tokens=args.context,
        exact=args.exact,
        trust_remote_code=args.trust_remote_code,
        base=args.base,
    )
    if args.harness:
        return _harness(args, options)
    if args.limit or args.task_path:
        raise UserError("--limit and --task-path are for --harness", "name its tasks: --harness A")
    if task := encoder_task(args.model, options):
        from toolchain.commands.evaluate_encoder import run_encoder

        return run_encoder(args, task, options)
    return _language_model(args, options)


def _harness(args: argparse.Namespace, options: OpenOptions) -> int:
    from toolchain.evaluate.harness import harness_lines, run_harness

    if args.against or args.task or args.text or args.answers or args.map:
        raise UserError(
            "--harness runs its own tasks on one model",
            "leave --against, --task, --text, --answers and --map out",
        )
    found = run_harness(
        args.model,
        [name.strip() for name in args.harness.split(",") if name.strip()],
        task_path=args.task_path,
        limit=args.limit,
        options=options,
    )
    if args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print("\n".join(harness_lines(found)))
    return 0


def _language_model(args: argparse.Namespace, options: OpenOptions) -> int:
    from toolchain.evaluate.compare import evaluate
    from toolchain.evaluate.generate import answer_rows, write_answers

    if args.map:
        raise UserError("--map is for the test sets of classifiers", "leave it out")
    settings = _settings(args)
    result = evaluate(args.model, settings, against=args.against, options=options)
    others = result.other.answers if result.other else None
    rows = answer_rows(result.result.answers, others)
    if args.answers:
        if not rows:
            raise UserError("--answers: there is no test set to answer", "give --task a file")
        write_answers(args.answers, rows)
    if args.json:
        print(json.dumps(result.as_json(), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_table(result) + _answers(rows if others else [])))
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    from toolchain.evaluate.compare import Settings
    from toolchain.evaluate.metrics import metric_names

    return Settings(
        text=_file(args.text),
        task=_file(args.task),
        with_text=args.text != NONE,
        with_task=args.task != NONE,
        metrics=metric_names(args.metrics),
        max_tokens=args.max_tokens,
        examples=args.examples or _EXAMPLES,
        text_tokens=args.text_tokens,
        seed=args.seed,
    )


def _file(value: str | None) -> Path | None:
    return None if value in (None, NONE) else typed_path(str(value))


def _table(result: Evaluation) -> list[str]:
    """The figures of one or both models, and what was measured."""
    mine, other = result.result, result.other
    names = [mine.model["name"], *([other.model["name"]] if other else [])]
    rows = [["", *names, *(["difference"] if other else [])]]
    if mine.perplexity is not None:
        rows.append(_row("perplexity", mine, other, lambda m: m.perplexity))
        if other is None or other.perplexity is not None:
            stderrs = [m.perplexity_stderr for m in (mine, other) if m]
            rows.append(["  standard error", *map(_number, stderrs), *([""] if other else [])])
    for name in mine.scores:
        rows.append(_row(name, mine, other, lambda m, name=name: m.scores[name]))
    lines = _aligned(rows)
    if result.comparison:
        facts = result.comparison
        lines += [
            "",
            f"KLD against {names[1]}: mean {_number(facts['kld_mean'])}, "
            f"p99 {_number(facts['kld_p99'])}, largest {_number(facts['kld_max'])} nats; "
            f"same top-1 token: {facts['top1_agreement']:.2%}",
        ]
    return [*lines, "", *_notes(result)]


def _row(label: str, mine: Any, other: Any, figure: Any) -> list[str]:
    values = [figure(mine), *([figure(other)] if other else [])]
    cells = [_number(value) for value in values]
    return [label, *cells, *([f"{values[0] - values[1]:+.4g}"] if other else [])]


def _notes(result: Evaluation) -> list[str]:
    from toolchain.evaluate.guessing import guessing_note

    notes = []
    if result.text:
        text, first = result.text, result.other or result.result  # the other is the reference
        notes.append(
            f"text: {text['name']}, {text['positions']} of {text['available_tokens']} tokens"
        )
        note = guessing_note(first.perplexity, first.model["vocab_size"], text["name"])
        notes += [f"note: {note}"] if note else []
    if result.task:
        task = result.task
        notes.append(f"task: {task['examples']} of {task['available_examples']} examples")
        for model in (result.result, result.other):
            if model and not model.model["chat_template"]:
                name = model.model["name"]
                notes.append(f"note: {name} has no chat template; it got the messages' plain text")
    return notes


def _answers(rows: list[dict[str, Any]]) -> list[str]:
    """The first answers that differ, side by side."""
    differing = [row for row in rows if row["answer"] != row["answer_other"]]
    if not rows:
        return []
    lines = ["", f"answers that differ: {len(differing)} of {len(rows)}"]
    for row in differing[:_SHOWN_ANSWERS]:
        lines += [
            f"  prompt     {_short(row['prompt'])}",
            f"  reference  {_short(row['reference'])}",
            f"  {_mark(row['right'])}  {_short(row['answer'])}",
            f"  {_mark(row['right_other'])}  {_short(row['answer_other'])}  (other)",
            "",
        ]
    return lines


def _mark(right: bool) -> str:
    return "right    " if right else "wrong    "


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 1]}…"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
