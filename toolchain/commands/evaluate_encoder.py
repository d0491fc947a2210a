"""What `edgeforge evaluate` does with a classifier or an embedding model."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.shell import typed_path

if TYPE_CHECKING:
    from toolchain.evaluate.classify import Classified, LabelEvaluation
    from toolchain.models import OpenOptions

_SHOWN_ANSWERS = 5
_SHOWN_CHARACTERS = 90
_SHOWN_LABELS = 40


def run_encoder(args: argparse.Namespace, task: str, options: OpenOptions) -> int:
    """Print the figures of a model for `task`. Raises `UserError` for bad input."""
    from toolchain.encoders import CLASSIFICATION, EMBEDDING

    if task == EMBEDDING:
        return _embeddings(args, options)
    if task != CLASSIFICATION:
        raise UserError(
            f"{args.model} is for {task}, which is not measured here",
            "see what it finds: edgeforge classify MODEL 'a text'",
        )
    return _labels(args, options)


def _labels(args: argparse.Namespace, options: OpenOptions) -> int:
    from toolchain.data.prepare.mapping import parse_mapping
    from toolchain.evaluate.classify import Settings, evaluate_classifier, label_rows
    from toolchain.evaluate.generate import write_answers

    settings = Settings(
        task=typed_path(args.task) if args.task else None,
        mapping=parse_mapping(args.map),
        examples=args.examples,
        seed=args.seed,
    )
    result = evaluate_classifier(args.model, settings, against=args.against, options=options)
    rows = label_rows(result)
    if args.answers:
        write_answers(args.answers, rows)
    if args.json:
        print(json.dumps(result.as_json(), indent=2, ensure_ascii=False))
    else:
        print("\n".join([*_table(result), *(_answers(rows) if result.other else [])]))
    return 0


def _table(result: LabelEvaluation) -> list[str]:
    from toolchain.plan_report import table_text

    models = [result.result, *([result.other] if result.other else [])]
    header = ["", *(str(model.model["name"]) for model in models)]
    rows = [
        [name.replace("_", " "), *(_number(getattr(model.scores, name)) for model in models)]
        for name in ("accuracy", "macro_f1", "cross_entropy")
    ]
    lines = [*table_text(header, rows)]
    if result.comparison:
        found = result.comparison
        lines += [
            "",
            f"same answer: {found['agreement']:.2%}; KLD against {header[2]}: mean "
            f"{_number(found['kld_mean'])}, p99 {_number(found['kld_p99'])}, "
            f"largest {_number(found['kld_max'])} nats",
        ]
    for model in models:
        lines += ["", *_per_label(model)]
    data = result.data
    return [*lines, "", f"task: {data.name}, {len(data.texts)} of {data.available} texts"]


def _per_label(model: Classified) -> list[str]:
    from toolchain.plan_report import table_text

    figures = model.scores.labels
    rows = [
        (f.label, str(f.texts), str(f.predicted), *map(_number, (f.precision, f.recall, f.f1)))
        for f in figures[:_SHOWN_LABELS]
    ]
    header = (str(model.model["name"]), "texts", "predicted", "precision", "recall", "f1")
    more = len(figures) - _SHOWN_LABELS
    return [*table_text(header, rows), *([f"and {more} more labels: --json"] if more > 0 else [])]


def _answers(rows: list[dict[str, Any]]) -> list[str]:
    """The first texts that the two models answer differently."""
    differing = [row for row in rows if row["answer"] != row["answer_other"]]
    lines = ["", f"answers that differ: {len(differing)} of {len(rows)}"]
    for row in differing[:_SHOWN_ANSWERS]:
        text = " ".join(f"{row['text']} {row.get('text_pair', '')}".split())
        lines += [
            f"  {text[:_SHOWN_CHARACTERS]}",
            f"    label {row['label']}; answer {row['answer']} ({row['probability']:.3f}); "
            f"other {row['answer_other']} ({row['probability_other']:.3f})",
        ]
    return lines


def _embeddings(args: argparse.Namespace, options: OpenOptions) -> int:
    from toolchain.evaluate.embed import compare_embedders

    found = compare_embedders(
        args.model,
        args.against,
        text=typed_path(args.text) if args.text else None,
        examples=args.examples,
        seed=args.seed,
        options=options,
    )
    if args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    figures = found["comparison"]
    print(
        f"cosine of {found['model']['name']} and {found['against']['model']['name']}: "
        f"mean {figures['cosine_mean']:.6f}, 1st percentile {figures['cosine_p01']:.6f}, "
        f"least {figures['cosine_min']:.6f}\n"
        f"text: {found['text']['name']}, {found['text']['documents']} documents"
    )
    return 0


def _number(value: float) -> str:
    return f"{value:.5g}"
