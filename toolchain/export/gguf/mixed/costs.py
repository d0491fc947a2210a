"""Stage `tensor-costs`: the KLD that each matrix of a model costs in each type that it may have.

hf → `tensor-costs.json`. The expensive part of a mixed file, and the same for every size. Measured
on calibration text alone, with a run of the model for each matrix and type (`mixed.sensitivity`);
what is measured stays when it is stopped.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from common.errors import UserError
from common.files import read_json, write_json
from common.progress import progress_bar
from common.scratch import ScratchFolder
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.export.gguf.mixed.settings import DEFAULT_SIZE, Mixed
from toolchain.stage import Input, StageConfig, resume_folder

if TYPE_CHECKING:
    from toolchain.export.gguf.mixed.matrices import Matrix
    from toolchain.export.gguf.mixed.sensitivity import Weight

    Types = Mapping[str, tuple[str, ...]]

NAME = "tensor-costs"
VERSION = 1
TOOLS = ("gguf", "llama-cpp-python", "torch", "transformers")
FORMAT = "tensor-costs"
FILE = "tensor-costs.json"

_CONTEXT_TOKENS = 512
# Above, one measured type of each tensor has to do: it chose as well within 0.5 %, in a sixth of
# the time (docs/mixed.md).
_MOST_PARAMETERS_MEASURED_IN_ALL = 10_000_000


class Config(StageConfig):
    """`calibration` is text as `toolchain.data.text` reads it, `imatrix` the folder of the stage of
    that name; the others are those of `Mixed`."""

    calibration: Input
    imatrix: Input | None = None
    types: tuple[str, ...] = ()
    calibration_tokens: int = Field(default=2048, ge=256)
    measure: Literal["auto", "all", "one"] = "auto"
    seed: int = 0
    trust_remote_code: bool = False

    @classmethod
    def of(cls, settings: Mixed, **others: Any) -> Config:
        """The config of a recipe's settings."""
        shared = ("types", "calibration_tokens", "measure", "seed")
        return cls(**{name: getattr(settings, name) for name in shared}, **others)


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Measure. Raises `UserError` for a network whose matrices are kept in another form than the
    file's, and for too little text."""
    from toolchain.checkpoint.inspect import inspect
    from toolchain.export.gguf.mixed.matrices import find_matrices

    start = time.perf_counter()
    info = inspect(source.path)
    matrices, _ = find_matrices(info, config.types, with_imatrix=config.imatrix is not None)
    measured = _measured_types(config.measure, info.parameters, matrices)
    costs = _costs(source, config, matrices, measured, resume_folder(out_dir))
    write_json(out_dir / FILE, costs)
    inputs = (config.calibration, config.imatrix)
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, *(one.digest for one in inputs if one is not None)],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={
            "measured": sum(map(len, measured.values())),
            "reckoned": sum(len(m.types) - len(measured[m.name]) for m in matrices),
            "wall_sec": round(time.perf_counter() - start, 3),
        },
    )


def read_costs(folder: Path) -> dict[str, dict[str, float]]:
    """Of a finished stage: KLD by matrix and type."""
    return {str(name): dict(own) for name, own in read_json(folder / FILE).items()}


def _measured_types(
    measure: str, parameters: int, matrices: tuple[Matrix, ...]
) -> dict[str, tuple[str, ...]]:
    """Which types of each matrix are measured; the others are reckoned."""
    from toolchain.export.gguf.mixed.reckon import anchor

    every = measure == "all" or (
        measure == "auto" and parameters <= _MOST_PARAMETERS_MEASURED_IN_ALL
    )
    return {m.name: m.types if every else (anchor(m.types),) for m in matrices}


def _costs(
    source: Artifact,
    config: Config,
    matrices: tuple[Matrix, ...],
    measured: Types,
    kept: Path,
) -> dict[str, dict[str, float]]:
    """KLD of every matrix in every type that it may be."""
    from toolchain.export.gguf.mixed.kept import Kept
    from toolchain.export.gguf.mixed.sensitivity import sensitivities
    from toolchain.hf import torch_model

    chunks = _chunks(source, config)
    count = sum(len(kinds) for kinds in measured.values())
    with torch_model(source.path, trust_remote_code=config.trust_remote_code) as network:
        weights = _weights(source, config, matrices, network, measured)
        with (
            ScratchFolder("mixed") as folder,
            progress_bar("mixed", unit="run", total=count) as bar,
        ):
            before = Kept(kept)
            _say_ahead(source.path.name, count - before.count, sum(map(len, chunks)))
            found = sensitivities(
                network, chunks, weights, Path(folder), before, progress=bar.update
            )
        return {
            matrix.name: _with_reckoned(matrix, found[matrix.name], weights[matrix.name], network)
            for matrix in matrices
        }


def _say_ahead(name: str, runs: int, tokens: int) -> None:
    print(
        f"mixed: {runs} runs of {name} from a layer on, {tokens} tokens each (half a full run on "
        "the average); what is measured stays when it is stopped",
        file=sys.stderr,
    )


def _chunks(source: Artifact, config: Config) -> list[list[int]]:
    from toolchain.data.text import read_documents
    from toolchain.export.gguf.imatrix import token_chunks
    from toolchain.hf import load_tokenizer

    documents = read_documents(config.calibration.path, source.path)
    random.Random(config.seed).shuffle(documents)
    tokenizer = load_tokenizer(source.path, trust_remote_code=config.trust_remote_code)
    return token_chunks(tokenizer, documents, config.calibration_tokens, _CONTEXT_TOKENS)


def _weights(
    source: Artifact,
    config: Config,
    matrices: tuple[Matrix, ...],
    network: Any,
    measured: Types,
) -> dict[str, Weight]:
    """The network's own names of the matrices, with their importances."""
    from runtimes.imatrix_file import read_imatrix
    from toolchain.checkpoint.inspect import inspect
    from toolchain.compress.exact.types import block_types
    from toolchain.export.gguf.imatrix import FILE as IMATRIX_FILE
    from toolchain.export.gguf.mixed.sensitivity import Weight
    from toolchain.gguf_names import weight_names

    info = inspect(source.path)
    gguf_name = weight_names(info)
    importances = (
        read_imatrix(config.imatrix.path / IMATRIX_FILE).importances() if config.imatrix else {}
    )
    own = {
        gguf_name(parameter): parameter for parameter in block_types(info, network, DEFAULT_SIZE)
    }
    if missing := [m.name for m in matrices if m.name not in own]:
        raise UserError(
            f"{missing[0]} is not in the network of {source.path.name} under a name that is known",
            "take a plain type (quantization: Q4_K_M)",
        )
    return {
        m.name: Weight(str(own[m.name]), measured[m.name], importances.get(m.name))
        for m in matrices
    }


def _with_reckoned(
    matrix: Matrix, found: Mapping[str, float], weight: Weight, network: Any
) -> dict[str, float]:
    from toolchain.export.gguf.mixed.reckon import anchor, reckoned

    if len(found) == len(matrix.types):
        return dict(found)
    values = network.get_parameter(weight.parameter).detach().float().cpu().numpy()
    return reckoned(found[anchor(matrix.types)], values, matrix.types, weight.importance)
