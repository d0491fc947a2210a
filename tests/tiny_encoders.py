"""Tiny encoders as the export leaves them, each exported once per test process."""

from __future__ import annotations

import atexit
import functools
import json
from pathlib import Path
from typing import Any, Literal

from tiny_models import SENTENCES, tiny_bert, tiny_tokenizer, tiny_wordpiece

from common.files import sha256_file
from common.scratch import ScratchFolder
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.export.onnx import encoder_driver, encoder_export

Task = Literal["sequence-classification", "token-classification", "embedding"]
TAGS = ("O", "B-DEV", "I-DEV")
_WORDS = sorted({word for text in SENTENCES[:3] for word in text.lower().split()})


def scratch() -> Path:
    """A folder that goes when the process ends, or with the next one's where that was ended."""
    folder = ScratchFolder("encoders")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@functools.cache
def checkpoint(task: Task) -> Path:
    """A random BERT with the head of `task`."""
    labels = TAGS if task == "token-classification" else ("negative", "positive")
    return tiny_bert(scratch() / "bert", task=task, labels=labels)


def as_source(folder: Path) -> Artifact:
    """The checkpoint as the stage takes it (taking it in asks llama.cpp's converter too)."""
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()}
    return Artifact(folder, "hf", files, "checkpoint")


@functools.cache
def exported(task: Task = "sequence-classification") -> Artifact:
    """It in FP32 ONNX: the classifier by the stage, in its process; the others in this one."""
    source = as_source(checkpoint(task))
    out_dir = scratch() / "fp32"
    out_dir.mkdir()
    if task == "sequence-classification":
        return encoder_export.run(source, encoder_export.config_for(source.path), out_dir)
    export_here(source.path, out_dir)
    size_bytes = (out_dir / "model.onnx").stat().st_size
    facts = {"variant": "fp32", "size_bytes": size_bytes}
    return artifacts.describe(out_dir, format="onnx-encoder", stage="test", measurements=facts)


def export_here(folder: Path, out_dir: Path, **wanted: Any) -> dict[str, Any]:
    """The driver's answer for a checkpoint, in this process."""
    out_dir.mkdir(parents=True, exist_ok=True)
    config = encoder_export.config_for(folder, **wanted)
    places = {"source": str(folder), "out_dir": str(out_dir)}
    return encoder_driver.export({**config.model_dump(mode="json"), **places})


def tiny_family(folder: Path, family: Literal["roberta", "distilbert"]) -> Path:
    """A random classifier of another family, with a tokenizer of its kind."""
    import torch
    import transformers

    folder.mkdir(parents=True)
    torch.manual_seed(3)
    if family == "distilbert":
        config = transformers.DistilBertConfig(
            vocab_size=tiny_wordpiece(folder), dim=64, n_layers=2, n_heads=4, hidden_dim=128,
            max_position_embeddings=128, initializer_range=0.2,
        )  # fmt: skip
        transformers.DistilBertForSequenceClassification(config).save_pretrained(folder)
        return folder
    size = tiny_tokenizer(folder, 320, chat_template=False)
    config = transformers.RobertaConfig(
        vocab_size=size, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=66, type_vocab_size=1, pad_token_id=0,
        initializer_range=0.2,
    )  # fmt: skip
    transformers.RobertaForSequenceClassification(config).save_pretrained(folder)
    return folder


def texts(count: int) -> list[str]:
    """So many different texts of 1 to 12 known words."""
    return [
        " ".join(_WORDS[(number * 7 + place * 5) % len(_WORDS)] for place in range(number % 12 + 1))
        for number in range(count)
    ]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    """JSON lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file
