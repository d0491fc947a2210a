"""Stage `mixed-types`: the type of every tensor, so that a file of a given size loses least.

hf → `tensor-types.json`, which the quantizer takes as overrides. What it is chosen by was measured
on calibration text alone (stage `tensor-costs`); what the file lost is measured on held-out text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from common.errors import UserError
from common.files import read_json, write_json
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.export.gguf.mixed.costs import read_costs
from toolchain.export.gguf.mixed.settings import Mixed
from toolchain.stage import Input, StageConfig

if TYPE_CHECKING:
    from toolchain.export.gguf.mixed.assign import Assignment, Option
    from toolchain.export.gguf.mixed.matrices import Matrix, Room

    Costs = Mapping[str, Mapping[str, float]]

NAME = "mixed-types"
VERSION = 1
TOOLS = ("gguf", "llama-cpp-python")
FORMAT = "tensor-types"
FILE = "tensor-types.json"

_IN_LAYERS = "blk."
# The KLD that rounding by calibration leaves of a matrix's, as measured: docs/calibrated.md.
_LEFT_BY_ROUNDING = 0.42
# What the quantizer adds to a file's metadata: where the importance matrix came from.
_ADDED_HEADER_BYTES = 1024


class Config(StageConfig):
    """`costs` is the folder of stage `tensor-costs`; `unquantized` the checkpoint's GGUF, where
    `settings.size_bytes` counts all of a file; `decode_costs` the time of a weight by type, where
    `settings.keep_speed` asks for it. `rounded` says that rounding by calibration follows."""

    costs: Input
    with_imatrix: bool = True
    unquantized: Input | None = None
    decode_costs: dict[str, float] = Field(default_factory=dict)
    rounded: bool = False
    settings: Mixed = Mixed()


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Choose. Raises `UserError` for a size that is too small, and a speed that no choice of types
    has."""
    from toolchain.checkpoint.inspect import inspect
    from toolchain.export.gguf.mixed.matrices import find_room

    settings, made = config.settings, artifacts.load(config.costs.path)
    room = find_room(
        inspect(source.path),
        settings,
        with_imatrix=config.with_imatrix,
        header_bytes=_header_bytes(config),
    )
    costs = read_costs(config.costs.path)
    found = _choice(room, config, _after_rounding(costs) if config.rounded else costs)
    types = {name: option.type for name, option in found.options.items()}
    write_json(
        out_dir / FILE,
        {
            "quantization": room.plain,
            "tensor_types": patterns(types),
            "tensors": [_row(matrix, found.options[matrix.name]) for matrix in room.matrices],
        },
    )
    inputs = (config.costs, config.unquantized)
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, *(one.digest for one in inputs if one is not None)],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={
            **_figures(room, found, costs),
            **_time(room, config, found),
            **{name: made.measurements[name] for name in ("measured", "reckoned")},
        },
    )


def read_types(folder: Path) -> tuple[str, dict[str, str]]:
    """Of a finished stage: the type whose mix the overrides go over, and the overrides."""
    found = read_json(folder / FILE)
    return str(found["quantization"]), dict(found["tensor_types"])


def patterns(types: Mapping[str, str]) -> dict[str, str]:
    """The choice as the quantizer takes it: an expression on tensor names for each type."""
    names: dict[str, list[str]] = {}
    for name, kind in sorted(types.items()):
        names.setdefault(kind, []).append(re.escape(name))
    return {f"^({'|'.join(own)})$": kind for kind, own in sorted(names.items())}


def _header_bytes(config: Config) -> int:
    """What the file has beside the tensors."""
    from runtimes.gguf_file import read_tensor_types
    from toolchain.export.gguf.mixed.matrices import padded

    if config.unquantized is None:
        return 0
    file = artifacts.load(config.unquantized.path).only(".gguf")
    tensors = sum(padded(entry.size_bytes) for entry in read_tensor_types(file))
    return file.stat().st_size - tensors + _ADDED_HEADER_BYTES


def _after_rounding(costs: Costs) -> dict[str, dict[str, float]]:
    """What the costs become where stage `gptq` follows: it leaves embedding and head alone, and
    types whose codes it does not know."""
    from runtimes.ggml_codes import CODED

    return {
        name: {
            kind: kld * _LEFT_BY_ROUNDING if name.startswith(_IN_LAYERS) and kind in CODED else kld
            for kind, kld in own.items()
        }
        for name, own in costs.items()
    }


def _choice(room: Room, config: Config, costs: Costs) -> Assignment:
    from toolchain.export.gguf.mixed.assign import Option, assign
    from toolchain.export.gguf.mixed.speed import decode_times

    keep_speed = config.settings.keep_speed
    times = decode_times(room, config.decode_costs)
    options = {
        m.name: [
            Option(kind, m.bytes_as(kind), costs[m.name][kind], times(m, kind)) for kind in m.types
        ]
        for m in room.matrices
    }
    limit_time = sum(times(m, m.plain) for m in room.matrices) if keep_speed else None
    found = assign(options, room.limit_bytes, limit_time)
    if found is None:
        raise UserError(
            f"no choice of types decodes as fast as {room.reference} within its size",
            "add the types of its own mix (Q4_K, Q6_K, …) to mixed.types, or set keep_speed: false",
        )
    return found


def _row(matrix: Matrix, option: Option) -> dict[str, Any]:
    return {
        "tensor": matrix.name,
        "shape": list(matrix.shape),
        "plain": matrix.plain,
        "type": option.type,
        "size_bytes": option.size_bytes,
        "kld": option.kld,
    }


def _time(room: Room, config: Config, found: Assignment) -> dict[str, Any]:
    """What decoding was reckoned to take, in that of the plain file."""
    from toolchain.export.gguf.mixed.speed import decode_times

    if not config.decode_costs:
        return {}
    times = decode_times(room, config.decode_costs)
    return {
        "decode_time_share": round(found.time / sum(times(m, m.plain) for m in room.matrices), 4)
    }


def _figures(room: Room, found: Assignment, costs: Costs) -> dict[str, Any]:
    """What is predicted of the choice, and of the plain file of the same size."""
    elements = sum(m.elements for m in room.matrices)
    plain: Sequence[float | None] = [costs[m.name].get(m.plain) for m in room.matrices]
    known = room.reference is not None and None not in plain
    return {
        "reference": room.reference,
        "limit_bytes": room.limit_bytes,
        "chosen_bytes": found.size_bytes,
        "matrix_bits_per_weight": round(8 * found.size_bytes / elements, 4),
        "types": dict(sorted(Counter(o.type for o in found.options.values()).items())),
        "predicted_kld": found.kld,
        "predicted_plain_kld": sum(filter(None, plain)) if known else None,
        "least_kld_bound": found.bound_kld,
        "gap_share": found.gap,
        "exact": found.exact,
    }
