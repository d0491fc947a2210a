"""Which base an adapter was trained on: a small file in the adapter's folder.

An adapter fits every checkpoint with the same shapes, and makes nonsense of all but one. So
training records the base's digest, and merging onto another base is refused unless forced.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from common.errors import UserError
from common.files import read_object, sha256_json, write_json
from toolchain.artifact import Artifact

RECORD = "edgeforge_base.json"
# Where the base lay on this machine. No part of the adapter: it is in no digest.
PLACE = "edgeforge_base_place.json"
Quantization = Literal["nf4"]


@dataclass(frozen=True)
class BaseRecord:
    """The base: digest of config and weights, its name, and how it was quantized in training."""

    base_digest: str
    base_name: str
    quantization: str | None


def base_digest(source: Artifact) -> str:
    """Identity of a base: its config and weights. Companion data, licence and README may change."""
    return sha256_json(
        {
            name: digest
            for name, digest in source.files.items()
            if name == "config.json" or ".safetensors" in name
        }
    )


def record_base(adapter: Path, source: Artifact, quantization: Quantization | None) -> BaseRecord:
    """Write into the adapter's folder which base it was trained on; called by training."""
    from toolchain.checkpoint.locate import model_name

    record = BaseRecord(base_digest(source), model_name(str(source.path)), quantization)
    write_json(adapter / RECORD, asdict(record))
    return record


def note_place(adapter: Path, source: Artifact) -> None:
    """Note where the base lies, for opening the adapter on this machine; written after the
    artifact's digests are taken."""
    write_json(adapter / PLACE, {"base": str(source.path.absolute())})


def noted_place(adapter: Path) -> Path | None:
    """The base's folder as noted; None where it was not, or where it is no more."""
    path = adapter / PLACE
    if not path.is_file():
        return None
    place = read_object(path).get("base")
    return Path(place) if isinstance(place, str) and Path(place).is_dir() else None


def read_record(adapter: Path) -> BaseRecord | None:
    """The adapter's record; None when it has none. `UserError` when it is broken."""
    path = adapter / RECORD
    if not path.is_file():
        return None
    data = read_object(path)
    digest, name = data.get("base_digest"), data.get("base_name")
    quantization = data.get("quantization")
    if (
        not isinstance(digest, str)
        or not isinstance(name, str)
        or quantization not in (None, "nf4")
    ):
        raise UserError(f"{path} is damaged", "restore it, or remove it to merge without proof")
    return BaseRecord(digest, name, quantization)


def is_proven(record: BaseRecord | None, source: Artifact) -> bool:
    """Whether the record says that the adapter was trained on exactly this base."""
    return record is not None and record.base_digest == base_digest(source)


def check_base(
    record: BaseRecord | None, trained_on: str | None, source: Artifact, *, force: bool
) -> list[str]:
    """What is to be said about the base. Raises `UserError` for another base than recorded, unless
    `force`. `trained_on` is peft's `base_model_name_or_path`."""
    from toolchain.checkpoint.locate import model_name

    name = model_name(str(source.path))
    if record is None:
        said = f"its settings name {trained_on}" if trained_on else "its settings name none"
        warnings = [
            f"the adapter has no record of its base, so {name} cannot be proven to be it ({said})"
        ]
        if trained_on and model_name(trained_on) != name:
            warnings.append(f"{name} does not have the name of the adapter's base ({trained_on})")
        return warnings
    warnings = []
    if not is_proven(record, source):
        problem = (
            f"the adapter was trained on another base: {record.base_name} "
            f"({record.base_digest[:12]}), not {name} ({base_digest(source)[:12]})"
        )
        if not force:
            raise UserError(problem, f"give --model {record.base_name}, or force it with --force")
        warnings.append(f"forced: {problem}")
    if record.quantization:
        warnings.append(
            f"the adapter was trained on a 4-bit ({record.quantization}) base and is merged onto "
            "the unquantized one: compare the result before you use it"
        )
    return warnings
