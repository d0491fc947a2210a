"""A checkpoint's facts from config, tokenizer and tensor headers alone: fast at any size.

    info = inspect(Path("my-model"))

reads no weights and imports neither torch nor transformers. It raises only where there is nothing
to go on (no folder, no config.json); every other fault is kept in `info.faults` for `validate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from common.errors import UserError
from common.files import read_object
from toolchain.checkpoint import config_facts, documents
from toolchain.checkpoint.info import CheckpointInfo, Fault, TensorHeader
from toolchain.checkpoint.locate import model_name
from toolchain.checkpoint.lookalikes import what_it_is
from toolchain.checkpoint.tokenizer_facts import TokenizerFacts, tokenizer_facts
from toolchain.checkpoint.weights import find_weights

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
_UNREADABLE = TokenizerFacts("unreadable", None)
_T = TypeVar("_T")


def inspect(path: Path) -> CheckpointInfo:
    """Everything that config, tokenizer and tensor headers say about the checkpoint in `path`.

    Raises `UserError` when `path` is no folder, has no config.json or a broken one.
    """
    path = path.expanduser().absolute()
    config = _config(path)
    faults: list[Fault] = []
    weights = find_weights(path)
    generation = _tried(faults, lambda: _optional(path / GENERATION_CONFIG)) or {}
    tokenizer_config = _tried(faults, lambda: _optional(path / TOKENIZER_CONFIG)) or {}
    tokenizer = _tried(faults, lambda: tokenizer_facts(path)) or _UNREADABLE
    template = _tried(faults, lambda: documents.chat_template(path, tokenizer_config))
    text = config_facts.text_config(config)
    license_id, license_file = documents.license_of(path)
    tied = is_tied(text, weights.tensors)
    return CheckpointInfo(
        path=path,
        name=model_name(str(path)),
        architecture=config_facts.architecture(config),
        model_type=_string(text.get("model_type")),
        config=config,
        generation_config=generation,
        tokenizer_config=tokenizer_config,
        tensors=weights.tensors,
        weight_files=weights.files,
        pickle_files=weights.pickle_files,
        parameters=_parameters(weights.tensors, tied),
        weight_bytes=sum(tensor.size_bytes for tensor in weights.tensors),
        vocab_size=_vocab_size(text, weights.tensors),
        context_tokens=config_facts.context_tokens(text),
        tied_embeddings=tied,
        chat_template=template,
        eos_token_ids=_eos_token_ids(generation, text),
        tokenizer_kind=tokenizer.kind,
        tokenizer_ids=tokenizer.ids,
        license_id=license_id,
        license_file=license_file,
        companion=documents.companion_folder(path),
        faults=(*weights.faults, *dict.fromkeys(faults)),
    )


def is_tied(text: Mapping[str, Any], tensors: Sequence[TensorHeader]) -> bool:
    """Whether input and output embeddings are one: as the config says, else as the weights show."""
    said = text.get("tie_word_embeddings")
    if isinstance(said, bool):
        return said
    names = [tensor.name for tensor in tensors]
    if config_facts.output_head(names) is not None:
        return False
    return _string(text.get("model_type")) not in config_facts.UNTIED_BY_DEFAULT


def _config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"folder {path} does not exist", "check the path given as model=")
    if not path.is_dir() or not (path / CONFIG).is_file():
        problem, mend = what_it_is(path)
        raise UserError(problem, mend)
    try:
        return read_object(path / CONFIG)
    except UserError as error:
        raise UserError(error.problem, "fetch config.json again") from None


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}


def _tried(faults: list[Fault], read: Callable[[], _T]) -> _T | None:
    """What `read` returns; its `UserError` becomes a fault."""
    try:
        return read()
    except UserError as error:
        faults.append(Fault(error.problem, error.mend))
        return None


def _parameters(tensors: Sequence[TensorHeader], tied: bool) -> int:
    head = config_facts.output_head([tensor.name for tensor in tensors]) if tied else None
    return sum(
        tensor.elements
        for tensor in tensors
        if tensor.name != head and not config_facts.is_buffer(tensor.name)
    )


def _vocab_size(text: Mapping[str, Any], tensors: Sequence[TensorHeader]) -> int | None:
    said = config_facts.whole_number(text, ("vocab_size", "padded_vocab_size"))
    if said is not None:
        return said
    name = config_facts.token_embedding([tensor.name for tensor in tensors])
    return next((tensor.shape[0] for tensor in tensors if tensor.name == name), None)


def _eos_token_ids(generation: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids that end generation: the generation config's before the model config's."""
    for source in (generation, text):
        value = source.get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        if found := tuple(token_id for token_id in ids if type(token_id) is int):
            return tuple(dict.fromkeys(found))
    return ()


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None
