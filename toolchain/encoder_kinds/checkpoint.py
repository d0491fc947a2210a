"""Kind `checkpoint`: a Hugging Face folder with a classifier, a tagger or an encoder alone, run by
transformers in torch in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_object
from runtimes.encoder_batches import longest_text
from runtimes.torch_classifier import TorchClassifier
from runtimes.torch_embedder import TorchEmbedder
from runtimes.torch_tagger import TorchTagger
from toolchain.checkpoint import rules
from toolchain.checkpoint.architectures import encoder_model_types
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.layer_rules import LAYER_RULES
from toolchain.checkpoint.locate import model_name
from toolchain.checkpoint.validate import raise_faults
from toolchain.encoder_kinds.pooling import MODULES, pooling_of, text_limit
from toolchain.encoders import CLASSIFICATION, EMBEDDING, TAGGING, OpenEncoder
from toolchain.models import OpenOptions

_AUTO_CLASSES = {
    CLASSIFICATION: "AutoModelForSequenceClassification",
    TAGGING: "AutoModelForTokenClassification",
    EMBEDDING: "AutoModel",
}
_HEADLESS = ("Model", "ForMaskedLM", "ForPreTraining")
_TEXTS_AT_ONCE = 32


def task_of(path: Path) -> str | None:
    """By the architecture that config.json names; a folder of sentence-transformers embeds."""
    if not (path / "config.json").is_file():
        return None
    config = read_object(path / "config.json")
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    if name.endswith("ForSequenceClassification"):
        return CLASSIFICATION
    if name.endswith("ForTokenClassification"):
        return TAGGING
    if (path / MODULES).is_file():
        return EMBEDDING
    if name.endswith(_HEADLESS) and not name.endswith("LMHeadModel"):
        return EMBEDDING if config.get("model_type") in encoder_model_types() else None
    return None


def open_path(path: Path, options: OpenOptions) -> OpenEncoder[Any]:
    """Load the checkpoint; raises `UserError` listing its faults, or when memory is too small."""
    task = task_of(path)
    assert task is not None  # `open_encoder` asked
    labels = () if task == EMBEDDING else labels_of(read_object(path / "config.json"), str(path))
    return open_checkpoint(
        path, options, name=model_name(str(path)), kind="checkpoint", task=task, labels=labels
    )


def open_checkpoint(
    path: Path,
    options: OpenOptions,
    *,
    name: str,
    kind: str,
    task: str,
    labels: Sequence[str],
    new_head: Mapping[str, Any] | None = None,
    change: Callable[[Any], Any] = lambda network: network,
) -> OpenEncoder[Any]:
    """Load a checkpoint whose network is handed through `change` (an adapter put on)."""
    import torch

    from toolchain.hf import load_tokenizer, torch_model

    _validate(path, trust_remote_code=options.trust_remote_code)
    tokenizer = load_tokenizer(path, trust_remote_code=options.trust_remote_code)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with ExitStack() as stack:
        loading = torch_model(
            path,
            device=device,
            trust_remote_code=options.trust_remote_code,
            auto_class=_AUTO_CLASSES[task],
            new_head=new_head,
        )
        network = change(stack.enter_context(loading))
        held = stack.pop_all()
    wanted = min(options.context_tokens, text_limit(path) or options.context_tokens)
    max_tokens = longest_text(read_object(path / "config.json"), tokenizer, wanted)
    common: dict[str, Any] = {
        "max_tokens": max_tokens,
        "parallel": _TEXTS_AT_ONCE,
        "on_close": held.close,
    }
    engine: TorchClassifier | TorchTagger | TorchEmbedder
    if task == CLASSIFICATION:
        engine = TorchClassifier(network, tokenizer, labels=labels, **common)
    elif task == TAGGING:
        engine = TorchTagger(network, tokenizer, labels=labels, **common)
    else:
        engine = TorchEmbedder(network, tokenizer, pooling=pooling_of(path), **common)
    facts = {"engine": "torch", "dtype": "float32", "device": device}
    return OpenEncoder(name, kind, task, engine, path, max_tokens, facts)


def gives_one_label(config: Mapping[str, Any]) -> bool:
    """Whether a classifier picks one label of several: no regression, no multi-label head."""
    return config.get("problem_type") in (None, "single_label_classification")


def labels_of(config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The labels in the order of the outputs. Raises `UserError` when a text has no single one."""
    if not gives_one_label(config):
        problem = str(config["problem_type"]).replace("_", " ")
        raise UserError(
            f"{where} is for {problem}, not for one label of several",
            "give a model that is trained for one label of each text",
        )
    table = config.get("id2label")
    labels = {int(i): str(label) for i, label in table.items()} if isinstance(table, dict) else {}
    if not labels:  # transformers leaves its default, two labels, out of the file
        labels = {0: "LABEL_0", 1: "LABEL_1"}
    if len(labels) < 2 or sorted(labels) != list(range(len(labels))):
        raise UserError(
            f"id2label in config.json of {where} names {len(labels)} labels, not 0, 1, …",
            "correct config.json: one name for each output of the head",
        )
    return tuple(labels[i] for i in range(len(labels)))


def _validate(path: Path, *, trust_remote_code: bool) -> None:
    """Every rule but llama.cpp's: its converter has no part in this."""
    info = inspect(path)
    faults = list(info.faults)
    if info.pickle_only:
        raise UserError(f"checkpoint {path}: its weights are pickles", "save it as safetensors")
    static = [rule for rule in rules.STATIC_RULES if rule is not rules.architecture_is_known]
    for rule in static if info.faults else (*static, *LAYER_RULES):
        faults.extend(rule(info))
    if not trust_remote_code:
        faults.extend(rules.no_custom_code(info))
    raise_faults(path, list(dict.fromkeys(faults)))
