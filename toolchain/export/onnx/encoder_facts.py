"""What an encoder checkpoint is for: task, labels, pooling, longest text. No weights are read.

facts = checkpoint_facts(Path("my-model"), task="auto", pooling="auto")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from common.errors import UserError, near_names
from common.files import read_object
from runtimes.ort_encoder import CLASSIFY, EMBED, TAG, TASKS, EncoderFacts
from runtimes.pooling import Pooling, PoolingMode
from toolchain.checkpoint import config_facts
from toolchain.encoder_kinds.pooling import LIMITS, MODULES, pooling_of

Task = Literal["sequence-classification", "token-classification", "embedding"]
AUTO = "auto"
FP32 = "fp32"
_HEADS = {"ForSequenceClassification": CLASSIFY, "ForTokenClassification": TAG}
# Their positions begin behind the padding token's id (`create_position_ids_from_input_ids`).
_POSITIONS_AFTER_PADDING = frozenset(
    ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "data2vec-text",
     "roberta-prelayernorm", "longformer")
)  # fmt: skip
_NO_LIMIT_TOKENS = 100_000  # transformers writes 1e30 for "no limit"
_DEFAULT_TOKENS = 512


def task_of(folder: Path, config: Mapping[str, Any], task: str) -> str:
    """The task asked for, or for `auto` the one that the checkpoint's head is for.

    Raises `UserError` for an unknown task and for one whose head the checkpoint lacks.
    """
    names = [name for name in config.get("architectures") or [] if isinstance(name, str)]
    own = next((_HEADS[end] for name in names for end in _HEADS if name.endswith(end)), None)
    if task == AUTO:
        plain = not names or names[0].endswith("Model") or (folder / MODULES).is_file()
        if own is None and not plain:
            raise UserError(
                f"{folder.name} is a {names[0]}: neither a classifier nor an embedding model",
                "fine-tune it for a task, or export its embeddings: task: embedding",
            )
        return own or EMBED
    if task not in TASKS:
        raise UserError(f"unknown task '{task}'", near_names(task, TASKS))
    if task != EMBED and task != own:
        head = next(end for end, name in _HEADS.items() if name == task)
        raise UserError(
            f"{folder.name} has no head for {task}: it is a {names[0] if names else 'base model'}",
            f"fine-tune it for {task} first (a …{head} checkpoint), or give another task",
        )
    return task


def max_tokens_of(folder: Path, config: Mapping[str, Any], task: str) -> int:
    """The longest text in tokens: what positions, tokenizer and an embedding model's own limit
    allow."""
    limits = [config_facts.context_tokens(config) or _NO_LIMIT_TOKENS]
    if config.get("model_type") in _POSITIONS_AFTER_PADDING:
        limits[0] -= int(config.get("pad_token_id") or 0) + 1
    for name, key in (
        ("tokenizer_config.json", "model_max_length"),
        *(((LIMITS, "max_seq_length"),) if task == EMBED else ()),
    ):
        said = read_object(folder / name) if (folder / name).is_file() else {}
        if isinstance(said.get(key), int | float) and said[key] >= 1:
            limits.append(int(said[key]))
    found = min(limits)
    return found if found < _NO_LIMIT_TOKENS else _DEFAULT_TOKENS


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Labels in the order of the logits (transformers' `id2label`, two by default)."""
    said = config.get("id2label")
    if not isinstance(said, Mapping) or not said:
        count = int(config.get("num_labels") or 2)
        return tuple(f"LABEL_{number}" for number in range(count))
    return tuple(str(said[key]) for key in sorted(said, key=int))


def checkpoint_facts(folder: Path, *, task: str = AUTO, pooling: str = AUTO) -> EncoderFacts:
    """The checkpoint's facts; `inputs` and `width` are known once it is exported. `pooling` auto
    is as sentence-transformers' modules say; another one comes without bringing to length 1.

    Raises `UserError` when the checkpoint has no head for the task.
    """
    config = read_object(folder / "config.json")
    chosen = task_of(folder, config, task)
    said = pooling_of(folder) if chosen == EMBED and pooling == AUTO else None
    if chosen == EMBED and said is None:
        said = Pooling(cast(PoolingMode, pooling))
    labels = () if chosen == EMBED else labels_of(config)
    problem = config.get("problem_type") if chosen == CLASSIFY else None
    if chosen == CLASSIFY and len(labels) == 1:
        problem = problem or "regression"
    return EncoderFacts(
        task=chosen,
        labels=labels,
        width=len(labels) or int(config_facts.hidden_size(config) or 0),
        pooling=said.mode if said else None,
        normalize=said.normalize if said else False,
        max_tokens=max_tokens_of(folder, config, chosen),
        inputs=(),
        pad_token_id=int(config.get("pad_token_id") or 0),
        problem=problem,
        variant=FP32,
    )
