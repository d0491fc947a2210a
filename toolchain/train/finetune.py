"""Stage `finetune`: a checkpoint learns from prepared data: an adapter, or all its weights.

    edgeforge finetune --model PATH_OR_HUB_ID --data my.jsonl

hf → adapter (method lora) or hf (method full). The training runs in a process of its own, with
transformers' Trainer and peft; its checkpoints lie beside the result until it is finished, so that
a killed run goes on where it stopped.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import field_serializer

from common.errors import UserError
from common.files import write_text
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import CONFIG, inspect
from toolchain.checkpoint.intake import FORMAT, measurements
from toolchain.checkpoint.weights import INDEX
from toolchain.compress.base_record import record_base
from toolchain.stage import Input, StageConfig, resume_folder
from toolchain.train.curve import CURVE, write_curve
from toolchain.train.launch import Job, launch
from toolchain.train.result import copy_rest, link_or_copy
from toolchain.train.rows import read_split
from toolchain.train.settings import MANNER, Finetune

NAME = "finetune"
VERSION = 1
TOOLS = ("accelerate", "datasets", "peft", "torch", "transformers")
ADAPTER_FORMAT = "adapter"
LOG = "training_log.jsonl"
_LOGGED = ("step", "epoch", "loss", "learning_rate", "grad_norm", "eval_loss", "eval_accuracy")
_TENSORBOARD = "tensorboard"


class Config(StageConfig):
    """`data` is a prepared folder. What only changes the manner of working (processes, Accelerate's
    configuration) is no part of the stage's key."""

    data: Input
    settings: Finetune = Finetune()
    trust_remote_code: bool = False

    @field_serializer("settings")
    def _what_counts(self, settings: Finetune) -> dict[str, Any]:
        return settings.model_dump(mode="json", exclude=set(MANNER))


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Train, or go on with a training that was stopped. Raises `UserError` for data that cannot be
    trained on, settings that do not fit the model, and a loss that is no number."""
    if source.format != FORMAT:
        raise UserError(f"{NAME} takes a checkpoint with safetensors, not {source.format}")
    info = inspect(source.path)
    _require_kind(config.data.path, info.architecture)
    work = resume_folder(out_dir)
    key = work.name.removeprefix(".").removesuffix(".resume")
    job = Job(
        model=source.path,
        data=config.data.path,
        work=work,
        result=work / "result",
        tensorboard=out_dir.parents[1] / _TENSORBOARD / key,
        settings=config.settings,
        context_tokens=info.context_tokens,
        trust_remote_code=config.trust_remote_code,
    )
    figures, history = launch(job)
    _collect(source, job, out_dir)
    _write_log(history, out_dir)
    if config.settings.method == "lora":
        record_base(out_dir, source, "nf4" if config.settings.quantization == "nf4" else None)
        kind = ADAPTER_FORMAT
    else:
        kind, figures = FORMAT, {**measurements(inspect(out_dir)), **figures}
    return artifacts.describe(
        out_dir,
        format=kind,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.data.digest],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={**figures, "base_path": str(source.path)},
    )


def _require_kind(data: Path, architecture: str | None) -> None:
    """Labels are learned by encoders here, answers by decoders."""
    _, row = next(read_split(data, "train"), ("", {}))
    is_decoder = "CausalLM" in (architecture or "") or "LMHeadModel" in (architecture or "")
    if "label" in row and is_decoder:
        raise UserError(
            f"the data has labels, but the model ({architecture}) is a decoder",
            "give an encoder (BERT, RoBERTa, MiniLM, …), or data with questions and answers",
        )
    if row and "label" not in row and not is_decoder:
        raise UserError(
            f"the data has no labels, but the model ({architecture}) is no decoder",
            "give rows of text and label, or a decoder (Llama, Qwen, …)",
        )


def _collect(source: Artifact, job: Job, out_dir: Path) -> None:
    """Bring the result into the stage's folder, with the base's other files."""
    for path in sorted(job.result.iterdir()):
        link_or_copy(path, out_dir / path.name)
    weights = {path.name for path in inspect(source.path).weight_files} | {INDEX}
    rest = [name for name in source.files if name not in weights]
    if job.settings.method == "lora":
        rest = [name for name in rest if name != CONFIG and "/" not in name]
        rest = [name for name in rest if not name.startswith("generation_config")]
    copy_rest(source.path, rest, out_dir)


def _write_log(history: list[dict[str, Any]], out_dir: Path) -> None:
    """Losses by step, without times, and their curve."""
    rows = [{name: entry[name] for name in _LOGGED if name in entry} for entry in history]
    rows = [row for row in rows if "loss" in row or "eval_loss" in row]
    write_text(out_dir / LOG, "".join(json.dumps(row) + "\n" for row in rows))
    write_curve(rows, out_dir / CURVE)

