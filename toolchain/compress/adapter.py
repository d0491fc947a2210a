"""A peft adapter folder, read from headers: what it changes and which base it was trained on.

    adapter = read_adapter(Path("my-adapter"))

Only `adapter_config.json` and `adapter_model.safetensors` are read; pickles never are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import UserError
from common.files import read_object, sha256_file, sha256_json
from toolchain.checkpoint.info import TensorHeader
from toolchain.checkpoint.locate import model_name
from toolchain.checkpoint.safetensors_header import read_header
from toolchain.compress.adapter_config import CONFIG, LoraSettings, parse_settings
from toolchain.compress.base_record import RECORD, BaseRecord, read_record

WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_PREFIX = "base_model.model."
_LORA_PART = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.(?P<leaf>weight|bias))?"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.weight)?)"
)

Part = Literal["down", "up", "magnitude", "bias"]


@dataclass(frozen=True)
class LoraModule:
    """The low-rank change of one layer: `down` is A (rank, in), `up` is B (out, rank), `magnitude`
    (DoRA) has one value per output, `bias` is what B adds to the layer's bias."""

    name: str
    down: TensorHeader
    up: TensorHeader
    scaling: float
    embedding: bool
    magnitude: TensorHeader | None = None
    bias: TensorHeader | None = None


@dataclass(frozen=True)
class Adapter:
    """An adapter. `replaced` maps parameters of the model (`lm_head.weight`) to whole tensors that
    take their place: modules_to_save, trained biases and embeddings."""

    path: Path
    settings: LoraSettings
    modules: Mapping[str, LoraModule]
    replaced: Mapping[str, TensorHeader]
    record: BaseRecord | None

    @property
    def name(self) -> str:
        """A safe folder name."""
        return model_name(str(self.path))


def read_adapter(folder: Path) -> Adapter:
    """Everything the adapter's headers say. `UserError` names what is missing, damaged or not
    supported."""
    folder = folder.expanduser().absolute()
    _check_folder(folder)
    settings = parse_settings(read_object(folder / CONFIG), str(folder))
    tensors = {tensor.name: tensor for tensor in _headers(folder / WEIGHTS)}
    if not tensors:
        raise UserError(f"the adapter {folder} holds no tensors", "save the adapter again")
    parts: dict[str, dict[str, TensorHeader]] = {}
    embeddings: set[str] = set()
    replaced: dict[str, TensorHeader] = {}
    for name, tensor in tensors.items():
        inner = name.removeprefix(_PREFIX)
        match = _LORA_PART.fullmatch(inner)
        if match is None:
            replaced[_parameter(folder, inner)] = tensor
            continue
        parts.setdefault(match["module"], {})[_part(match)] = tensor
        if match["embedding"]:
            embeddings.add(match["module"])
    modules = {
        name: _module(folder, name, found, settings, name in embeddings)
        for name, found in parts.items()
    }
    return Adapter(folder, settings, modules, replaced, read_record(folder))


def adapter_digest(folder: Path) -> str:
    """Identity by content: settings, weights and the record of the base."""
    names = [name for name in (CONFIG, WEIGHTS, RECORD) if (folder / name).is_file()]
    return sha256_json({name: sha256_file(folder / name) for name in names})


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"adapter folder {folder} does not exist", "check the path of --adapter")
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no adapter: no {CONFIG}", "give the folder that peft saved")
    if (folder / WEIGHTS).is_file():
        return
    if (folder / _PICKLE).is_file():
        raise UserError(
            f"the weights of the adapter {folder} are a pickle ({_PICKLE}), which can run code "
            "when loaded",
            "load it with peft where you trust it, and save it with safe_serialization",
        )
    raise UserError(f"{folder / WEIGHTS} is missing", "fetch or save the adapter again")


def require_harmless(folder: Path) -> None:
    """Raise `UserError` for an adapter that peft would run code for: weights that are a pickle, or
    settings that name a Python module to import."""
    _check_folder(folder)
    settings = read_object(folder / CONFIG)
    if settings.get("megatron_config"):
        raise UserError(
            f"the adapter {folder} names a Python module to import "
            f"(megatron_core: {settings.get('megatron_core')})",
            "train it as plain LoRA or DoRA",
        )


def _headers(path: Path) -> tuple[TensorHeader, ...]:
    try:
        return read_header(path)
    except UserError as error:
        raise UserError(f"adapter {path.parent}: {error.problem}", error.mend) from None


def _part(match: re.Match[str]) -> Part:
    if match["magnitude"]:
        return "magnitude"
    if match["leaf"] == "bias":
        return "bias"
    return "down" if match["side"] == "A" else "up"


def _parameter(folder: Path, inner: str) -> str:
    """The model's own name for a tensor that was saved whole."""
    if "lora_" in inner or ".token_adapter." in inner or "prompt_" in inner:
        raise UserError(
            f"the adapter {folder} holds {inner}, which cannot be merged here",
            "only LoRA, DoRA and whole trained modules can be merged",
        )
    return inner.replace(".base_layer.", ".").replace(".modules_to_save.", ".")


def _module(
    folder: Path,
    name: str,
    parts: Mapping[str, TensorHeader],
    settings: LoraSettings,
    embedding: bool,
) -> LoraModule:
    where = f"the adapter {folder}: {name}"
    needed = ("down", "up", *(("magnitude",) if settings.use_dora else ()))
    names = {"down": "lora_A", "up": "lora_B", "magnitude": "lora_magnitude_vector"}
    missing = [names[part] for part in needed if part not in parts]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}", "save the adapter again")
    if not settings.use_dora and "magnitude" in parts:
        raise UserError(f"{where} has a DoRA magnitude, but {CONFIG} says use_dora: false")
    down, up = parts["down"], parts["up"]
    if len(down.shape) != 2 or len(up.shape) != 2:
        raise UserError(
            f"{where} has lora_A {list(down.shape)} and lora_B {list(up.shape)}",
            "only linear layers and embeddings can be merged, and no unfinished (sharded) save",
        )
    rank = settings.rank_of(name)
    if down.shape[0] != rank or up.shape[1] != rank:
        raise UserError(
            f"{where} should have rank {rank}, its tensors are lora_A {list(down.shape)} and "
            f"lora_B {list(up.shape)}",
            f"{CONFIG} and {WEIGHTS} must be of the same save",
        )
    return LoraModule(
        name,
        down,
        up,
        settings.scaling_of(name),
        embedding,
        parts.get("magnitude"),
        parts.get("bias"),
    )
