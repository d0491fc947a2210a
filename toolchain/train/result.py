"""What a run leaves: adapter or checkpoint, its log and its loss curve; the same bytes for the same
run, so nothing here holds a time or a place."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from statistics import fmean

from common.files import read_json, write_json, write_text
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import CONFIG, inspect
from toolchain.checkpoint.weights import INDEX
from toolchain.compress.exact.grid import Grid
from toolchain.compress.exact.settings import ExactPlan
from toolchain.layer_widths import network_loader
from toolchain.report.svg import new_figure, save_svg
from toolchain.train.job import Kind

LOG, CURVE, LABELS = "training_log.jsonl", "loss_curve.svg", "labels.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LOGGED = (
    "step", "epoch", "loss", "learning_rate", "grad_norm",
    "loss_soft", "loss_hard", "loss_hidden", "loss_attention",
    "eval_loss", "eval_loss_soft", "eval_loss_hard", "eval_accuracy", "eval_macro_f1",
)  # fmt: skip
# What an adapter takes of its base: how texts become tokens, and the licence.
_BESIDE_ADAPTER = (
    "*token*.json", "tokenizer.model", "*.tiktoken", "tekken.json", "spiece.model",
    "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "merges.txt", "chat_template.json",
    "chat_template.jinja", "LICEN*", "COPYING*", "NOTICE*",
)  # fmt: skip
_TORCH_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_SHARD_SIZE = "5GB"
_STEPS_THAT_TELL = 50

History = Sequence[Mapping[str, float]]


def losses_of(history: History) -> list[float]:
    """The validation losses, in order."""
    return [entry["eval_loss"] for entry in history if "eval_loss" in entry]


def best_step(history: History) -> int | None:
    """The first step with the lowest validation loss; None without validation."""
    validated = [entry for entry in history if "eval_loss" in entry]
    best = min(validated, key=lambda entry: entry["eval_loss"], default=None)
    return None if best is None else int(best["step"])


def unlearned(history: History) -> str | None:
    """A warning where the training loss did not fall from the first tenth of the steps to the last;
    too few steps tell nothing."""
    losses = [entry["loss"] for entry in history if "loss" in entry]
    part = len(losses) // 10
    if len(losses) < _STEPS_THAT_TELL:
        return None
    first, last = fmean(losses[:part]), fmean(losses[-part:])
    if last < first:
        return None
    return (
        f"the training loss has not fallen ({first:.4f} in the first tenth of the steps, "
        f"{last:.4f} in the last): try a lower learning_rate"
    )


def write_adapter(
    checkpoint: Path, source: Artifact, base_name: str, labels: Sequence[str], out: Path
) -> None:
    """The adapter of a checkpoint, naming its base and not where that lies."""
    settings = read_json(checkpoint / ADAPTER_CONFIG)
    settings["base_model_name_or_path"] = base_name
    # Sets in peft, so their order is any.
    for key in ("target_modules", "modules_to_save"):
        if isinstance(settings.get(key), list):
            settings[key] = sorted(settings[key])
    write_json(out / ADAPTER_CONFIG, settings)
    shutil.copyfile(checkpoint / ADAPTER_WEIGHTS, out / ADAPTER_WEIGHTS)
    if labels:
        write_json(out / LABELS, list(labels))
    _copy(source, (name for name in source.files if _fits(name, _BESIDE_ADAPTER)), out)


def write_checkpoint(
    checkpoint: Path,
    source: Artifact,
    kind: Kind,
    out: Path,
    *,
    exact: ExactPlan | None = None,
    start: Path | None = None,
    trust_remote_code: bool,
) -> None:
    """A complete checkpoint in the base's type of numbers, with all that lay beside its weights.
    With `exact` its weights are the values of their blocks, in float32, and the blocks lie there
    too, with the scales that `checkpoint` has learned, else those of the checkpoint `start` where
    that is given."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from toolchain.compress.exact.rounding import settle_blocks
    from toolchain.compress.exact.sidecar import write_exact

    auto = AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification
    network = network_loader(auto, checkpoint).from_pretrained(
        checkpoint,
        dtype=torch.float32 if exact else getattr(torch, _dtype(source)),
        trust_remote_code=trust_remote_code,
        local_files_only=True,
    )
    # Training keeps no cache and saves that with the config.
    network.config.use_cache = inspect(source.path).config.get("use_cache", True)
    blocks = settle_blocks(network, exact, _grids(checkpoint, exact, start)) if exact else None
    network.save_pretrained(out, max_shard_size=_SHARD_SIZE)
    own = {INDEX, *(() if kind == "causal" else (CONFIG,))}
    names = (name for name in source.files if ".safetensors" not in name and name not in own)
    _copy(source, names, out)
    if blocks is not None:
        write_exact(out, blocks)


def _grids(checkpoint: Path, exact: ExactPlan, start: Path | None) -> dict[str, Grid]:
    """The steps of the weights whose scales are learned or held."""
    from toolchain.compress.exact.rounding import held_grids
    from toolchain.compress.exact.scales import learned_grids
    from toolchain.compress.exact.sidecar import read_exact

    learned = learned_grids(checkpoint, exact.types)
    held = held_grids(read_exact(start), learned) if start else {}
    return held | learned


def write_log(history: History, out: Path) -> None:
    """`training_log.jsonl`: what was logged, one step or validation a line."""
    kept = ({key: entry[key] for key in _LOGGED if key in entry} for entry in history)
    write_text(out / LOG, "".join(json.dumps(entry) + "\n" for entry in kept))


def write_curve(history: History, out: Path) -> None:
    """`loss_curve.svg`: loss over steps, and validation loss where there is one."""
    figure = new_figure()
    axes = figure.add_subplot()
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.2, markersize=4)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend()
    save_svg(figure, out / CURVE)


def _dtype(source: Artifact) -> str:
    """The type in which most of the base's weights are stored."""
    sizes: Counter[str] = Counter()
    for tensor in inspect(source.path).tensors:
        sizes[tensor.dtype] += tensor.elements
    return _TORCH_DTYPES.get(sizes.most_common(1)[0][0], "float32")


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _copy(source: Artifact, names: Iterable[str], out: Path) -> None:
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path / name, out / name)
