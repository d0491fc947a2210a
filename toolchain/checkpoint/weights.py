"""Which weight files a checkpoint has, and their tensors, from headers alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from common.errors import UserError
from common.files import can_be_a_file, read_object
from toolchain.checkpoint.info import Fault, TensorHeader
from toolchain.checkpoint.safetensors_header import read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE_SINGLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
_NAMES_LISTED = 5
_FETCH_MISSING = "fetch the missing file"


@dataclass(frozen=True)
class Weights:
    """Weight files in use, their tensors and what is wrong with them."""

    files: tuple[Path, ...]
    pickle_files: tuple[Path, ...]
    tensors: tuple[TensorHeader, ...]
    faults: tuple[Fault, ...]


def find_weights(folder: Path) -> Weights:
    """The weights that every engine reads for this checkpoint.

    transformers prefers `model.safetensors` to the index, llama.cpp's converter the index to any
    other `model*.safetensors`: a folder where the two would differ is a fault.
    """
    faults: list[Fault] = []
    files = _safetensors(folder, faults)
    pickles = () if files else _pickles(folder, faults)
    tensors: list[TensorHeader] = []
    for file in files:
        try:
            tensors.extend(read_header(file))
        except UserError as error:
            faults.append(Fault(error.problem, error.mend))
    if not faults:
        _check_names(folder, tensors, faults)
    if not files and not pickles and not faults:
        faults.append(_no_weights(folder))
    return Weights(tuple(files), tuple(pickles), tuple(tensors), tuple(faults))


def index_map(folder: Path, name: str) -> dict[str, str]:
    """The `weight_map` of an index: tensor name to file name. `UserError` when it is broken."""
    weight_map = read_object(folder / name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{name} has no weight_map", "fetch the index again")
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not _inside(file):
            raise UserError(f"{name} puts {tensor} into {file!r:.200}, outside the checkpoint")
    return weight_map


def _inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    plain = can_be_a_file(name) and "\\" not in name
    return bool(parts) and plain and not name.startswith("/") and ".." not in parts


def _safetensors(folder: Path, faults: list[Fault]) -> list[Path]:
    present = sorted(folder.glob("model*.safetensors"))
    if (folder / INDEX).is_file():
        shards = _indexed(folder, INDEX, faults)
        if folder / SINGLE in present and folder / SINGLE not in shards:
            faults.append(
                Fault(
                    f"both {SINGLE} and {INDEX} are there: engines would read different weights",
                    "remove the one that is not meant",
                )
            )
        return shards
    others = [path.name for path in present if path.name != SINGLE]
    if others:
        faults.append(
            Fault(
                f"{_some(others)} beside {SINGLE}: it is not clear which are meant"
                if folder / SINGLE in present
                else f"{INDEX} is missing for {_some(others)}",
                f"keep {SINGLE} alone, or fetch {INDEX}",
            )
        )
    return [folder / SINGLE] if folder / SINGLE in present else []


def _pickles(folder: Path, faults: list[Fault]) -> list[Path]:
    if (folder / PICKLE_INDEX).is_file():
        return _indexed(folder, PICKLE_INDEX, faults)
    return [folder / PICKLE_SINGLE] if (folder / PICKLE_SINGLE).is_file() else []


def _indexed(folder: Path, index: str, faults: list[Fault]) -> list[Path]:
    try:
        names = sorted(set(index_map(folder, index).values()))
    except UserError as error:
        faults.append(Fault(error.problem, error.mend))
        return []
    for name in names:
        if not (folder / name).is_file():
            faults.append(Fault(f"shard {name} is missing ({index} names it)", _FETCH_MISSING))
    return [folder / name for name in names if (folder / name).is_file()]


def _check_names(folder: Path, tensors: list[TensorHeader], faults: list[Fault]) -> None:
    owners: dict[str, str] = {}
    for tensor in tensors:
        if tensor.name in owners and owners[tensor.name] != tensor.file.name:
            faults.append(
                Fault(f"{tensor.name} is in {owners[tensor.name]} and in {tensor.file.name}")
            )
        owners[tensor.name] = tensor.file.name
    if not tensors or not (folder / INDEX).is_file():
        return
    named: dict[str, Any] = index_map(folder, INDEX)
    absent = sorted(name for name, file in named.items() if owners.get(name) != Path(file).name)
    extra = sorted(owners.keys() - named.keys())
    if absent:
        faults.append(Fault(f"{INDEX} names tensors that its shards lack: {_some(absent)}",
                            "fetch index and shards again, all of one revision"))  # fmt: skip
    if extra:
        faults.append(Fault(f"{INDEX} does not name {_some(extra)}, which its shards hold",
                            "fetch index and shards again, all of one revision"))  # fmt: skip


def _no_weights(folder: Path) -> Fault:
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        return Fault(f"no weights: {_some(others)} has not the usual name", f"name it {SINGLE}")
    for pattern, kind in (("*.h5", "TensorFlow"), ("*.msgpack", "Flax"), ("*.onnx", "ONNX")):
        if names := sorted(path.name for path in folder.glob(pattern)):
            return Fault(
                f"no weights that can be read: {_some(names)} is a {kind} file",
                "use a checkpoint with safetensors weights",
            )
    return Fault(
        f"no weights: neither {SINGLE} nor {INDEX}", "fetch the checkpoint's safetensors files"
    )


def _some(names: list[str]) -> str:
    more = len(names) - _NAMES_LISTED
    return ", ".join(names[:_NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")
