"""Where a family's trial lies: its checkpoint, a student, texts and training data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_families import (  # type: ignore[import-not-found]
    FAMILIES,
    Family,
    encoder_of,
    tiny_decoder,
)

from toolchain.artifact import Artifact
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.pipeline import Workspace, run_stage
from toolchain.stage import Input, StageConfig
from toolchain.train.finetune import data_input

# Rows that are whole blocks of every K-quant, heads that ONNX's kernels take; weights so spread
# that distributions are neither flat nor one token alone.
DECODER_SIZES = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
                 "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32,
                 "max_position_embeddings": 1024, "initializer_range": 0.06,
                 "vocab_size": 640}  # fmt: skip
ENCODER_SIZES = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
                 "num_attention_heads": 8, "initializer_range": 0.06,
                 "vocab_size": 640}  # fmt: skip
_TEMPLATES = "chat_templates"
_WORDS = ("lamp", "kitchen", "fox", "dog", "weights", "bits", "空调", "café")
_README = Path(__file__).resolve().parents[2] / "README.md"


@dataclass(frozen=True)
class Place:
    """A family's folder. `assets` is a folder with real tokenizers and templates, if there is."""

    family: str
    folder: Path
    assets: Path | None
    small: bool = False

    @property
    def row(self) -> Family:
        return FAMILIES[self.family]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def is_encoder(self) -> bool:
        """Whether the family reads whole texts."""
        return self.row.task is not None

    @property
    def body(self) -> Path:
        """An encoder of the family without a head: what becomes GGUF."""
        return self.checkpoint if self.row.task == "embedding" else self.folder / "body"

    @property
    def text(self) -> Path:
        return self.folder / "text.txt"

    def source(self, folder: Path | None = None) -> Artifact:
        """The checkpoint (or another one) as every verb takes it in."""
        return open_checkpoint(folder or self.checkpoint, None)[0]

    def stage(self, module: Any, source: Artifact, config: StageConfig) -> Artifact:
        """A stage's result; finished ones are taken as they are."""
        return run_stage(module, source, config, Workspace(self.folder), lambda _line: None)

    def text_input(self) -> Input:
        return Input.of_file(self.text)

    def data(self) -> Input:
        return data_input(self.folder / "data")


def make(place: Place) -> None:
    """Write checkpoint, student, text and data."""
    build(place, place.checkpoint, seed=0)
    build(place, place.folder / "student", seed=2)
    if place.body != place.checkpoint:
        build(place, place.body, seed=0, task="embedding")
    place.text.write_text("\n<|document|>\n".join(_documents()), encoding="utf-8")
    _write_data(place)


def build(place: Place, folder: Path, *, seed: int, task: Any = None) -> None:
    """A random checkpoint of the family, an encoder for another task where one is named."""
    row = place.row
    if row.task:
        sizes = {} if place.small else ENCODER_SIZES
        encoder_of(folder, place.family, task=task, assets=place.assets, seed=seed, **sizes)
        return
    sizes = {} if place.small else _decoder_sizes(row)
    tiny_decoder(
        folder,
        place.family,
        tokenizer="own",
        chat_template=template_of(place),
        assets=place.assets,
        seed=seed,
        **sizes,
    )


def template_of(place: Place) -> str | None:
    """The family's chat template: the real one where it is at hand, else ChatML; None where its
    models have none."""
    from tiny_models import CHATML  # type: ignore[import-not-found]

    name = place.row.template
    if not name:
        return None
    file = place.assets / _TEMPLATES / f"{name}.jinja" if place.assets else None
    if file is None or not file.is_file():
        return str(CHATML)
    text = file.read_text(encoding="utf-8")
    # Those without an organization's name are laid out for readers; their models' are one line.
    return text if name[0].isupper() else text.replace("    ", "").replace("\n", "")


def _decoder_sizes(row: Family) -> dict[str, Any]:
    """The matrix's sizes; what makes the family's structure stays."""
    kept = ("num_key_value_heads", "num_hidden_layers", "initializer_range")
    sizes = {k: v for k, v in DECODER_SIZES.items() if not (k in kept and k in row.settings)}
    if row.settings.get("head_dim", 0) is None or row.settings.get("kv_lora_rank"):
        sizes.pop("head_dim")
    return sizes


def _documents() -> list[str]:
    """Texts of different lengths and kinds: paragraphs of the project's own page."""
    from tiny_models import SENTENCES

    page = _README.read_text(encoding="utf-8").split("\n\n")
    long = [part for part in page if len(part) > 200]
    return [*SENTENCES, *(text.strip() for text in long[:16])]


def _write_data(place: Place) -> None:
    rows = [_data_row(place, number) for number in range(16)]
    folder = place.folder / "data"
    folder.mkdir(exist_ok=True)
    for split, part in (("train", rows[:12]), ("validation", rows[12:])):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in part]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    texts = [json.dumps({"text": f"{text[:80]} {n}"}, ensure_ascii=False) + "\n"
             for n, text in enumerate(_documents() * 4)]  # fmt: skip
    (place.folder / "texts.jsonl").write_text("".join(texts), encoding="utf-8")


def _data_row(place: Place, number: int) -> dict[str, Any]:
    words = " ".join(_WORDS[: 1 + number % len(_WORDS)])
    if place.row.task:
        return {"text": f"{_WORDS[number % 2]} {words}", "label": ("cold", "warm")[number % 2]}
    if template_of(place) is None:
        return {"text": f"{words} {number}. Done {words}."}
    user = {"role": "user", "content": f"{words} {number}"}
    return {"messages": [user, {"role": "assistant", "content": f"Done {words} {number}."}]}
