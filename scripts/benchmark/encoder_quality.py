"""An encoder's quality beside its speed, measured where no bundle tells it.

Classifiers: accuracy and macro F1 on labelled texts, the loss of accuracy and the share of same
answers against FP32; without labels the latter alone. Embeddings: cosine to the FP32 file's.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.fleet import Fleet
from benchmark.inputs import Inputs
from benchmark.records import FP32, EngineSpec
from benchmark.settings import Settings
from common.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]

_BATCH = 32
_TEXT_COLUMNS, _LABEL_COLUMN = ("text", "sentence"), "label"
_MAX_TEXTS = 1000
_MAX_TEXT_TOKENS = 128


def encoder_quality(
    fleet: Fleet, inputs: Inputs, settings: Settings, task: Path | None, text: Path | None
) -> dict[str, Any] | None:
    """Figures by engine; None without a checkpoint, a reference or another engine."""
    from toolchain.hf import load_tokenizer

    by_name = {spec.name: spec for spec in fleet.specs}
    reference = by_name.get(FP32) or by_name.get("torch-fp32")
    if inputs.checkpoint is None or reference is None or len(by_name) < 2:
        return None
    task = task or _companion(inputs.checkpoint)
    texts, labels = _labelled(task) if task else (_texts(inputs.checkpoint, text), None)
    heads = _architecture(inputs)
    if heads == "embedding":
        labels = None
    tokenizer = load_tokenizer(inputs.checkpoint)
    expected = _outputs(fleet, reference, tokenizer, texts, inputs.max_tokens)
    right = _ids(labels, inputs.config, task) if labels is not None else None
    rows = {}
    for spec in fleet.specs:
        # A plain checkpoint's pooling may be another than the exported graph's.
        foreign = heads == "embedding" and spec.engine != reference.engine
        if spec.name != reference.name and not foreign:
            found = _outputs(fleet, spec, tokenizer, texts, inputs.max_tokens)
            rows[spec.name] = _against(expected, found, heads, right)
    if not rows:
        return None
    where = task.name if task else "held-out text"
    source = f"{len(texts)} texts of {where}, against {reference.name}"
    return {"source": source, "reference": reference.name, "engines": rows}


def _architecture(inputs: Inputs) -> str:
    name = str((inputs.config.get("architectures") or [""])[0])
    return "classifier" if "Classification" in name else "embedding"


def _outputs(
    fleet: Fleet,
    spec: EngineSpec,
    tokenizer: Any,
    texts: Sequence[str],
    max_tokens: int | None,
) -> Rows:
    """The engine's results for all texts `[texts, width]`; of a tagger, each text's first token."""
    import numpy as np

    length = min(_MAX_TEXT_TOKENS, max_tokens or _MAX_TEXT_TOKENS)
    parts = []
    with tempfile.TemporaryDirectory(prefix="edgeforge-bench-") as name, fleet.beside(spec) as one:
        for start in range(0, len(texts), _BATCH):
            batch = tokenizer(
                list(texts[start : start + _BATCH]),
                padding=True,
                truncation=True,
                max_length=length,
            )
            file = Path(name) / f"{start}.npy"
            one.ask(
                "outputs",
                tokens=batch["input_ids"],
                mask=batch["attention_mask"],
                file=str(file),
            )
            rows = np.load(file)
            parts.append(rows[:, 0] if rows.ndim == 3 else rows)
    return np.concatenate(parts).astype(np.float32)


def _against(
    expected: Rows, found: Rows, heads: str, right: Sequence[int] | None
) -> dict[str, float]:
    """Figures against the reference's results, and the right labels where they are known."""
    from toolchain.export.onnx.encoder_metrics import classifier_figures, embedding_figures

    if heads == "embedding":
        return embedding_figures(expected, found)
    figures = classifier_figures(expected, found, right)
    if right is not None:
        figures["accuracy_loss"] = figures["reference_accuracy"] - figures["accuracy"]
    return figures


def _companion(checkpoint: Path) -> Path | None:
    from toolchain.data.text import COMPANION_FOLDER

    path = checkpoint / COMPANION_FOLDER / "task.jsonl"
    return path if path.is_file() else None


def _labelled(path: Path) -> tuple[list[str], list[Any]]:
    """Texts and labels of a .jsonl file, at most 1,000. Raises `UserError` naming a bad line."""
    texts, labels = [], []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", "check --task") from None
    for number, line in enumerate(lines[:_MAX_TEXTS], 1):
        try:
            row = json.loads(line)
            text = next(row[name] for name in _TEXT_COLUMNS if name in row)
            labels.append(row[_LABEL_COLUMN])
        except (json.JSONDecodeError, KeyError, StopIteration, TypeError):
            raise UserError(
                f"line {number} of {path} has no text and label",
                f'each line is {{"{_TEXT_COLUMNS[0]}": ..., "{_LABEL_COLUMN}": ...}}',
            ) from None
        texts.append(str(text))
    if not texts:
        raise UserError(f"{path} has no examples", "give a file with labelled texts")
    return texts, labels


def _ids(labels: Sequence[Any], config: Mapping[str, Any], path: Path | None) -> list[int]:
    """Label ids: numbers as they are, names by the checkpoint's `label2id`."""
    table = {str(name): int(i) for name, i in (config.get("label2id") or {}).items()}
    ids = [table.get(str(label), label) for label in labels]
    unknown = next((label for label in ids if not isinstance(label, int)), None)
    if unknown is not None:
        raise UserError(
            f"{path}: the model has no label '{unknown}'", f"its labels: {', '.join(table)}"
        )
    return ids


def _texts(checkpoint: Path, text: Path | None) -> list[str]:
    """Lines of the held-out text that are long enough to mean something."""
    from toolchain.data.text import evaluation_text

    documents = evaluation_text(checkpoint, text).documents
    lines = [line.strip() for document in documents for line in document.splitlines()]
    return [line for line in lines if len(line) > 20][: _MAX_TEXTS // 4] or list(documents)
