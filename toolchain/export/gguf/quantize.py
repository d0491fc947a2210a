"""Stage `quantize`: an unquantized GGUF to one type, with the types read back from the file."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from pathlib import Path

from pydantic import Field, field_validator

from common.files import require_free_bytes
from common.progress import progress_bar
from runtimes.quantizer import canonical_quantization, quantize
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.export.gguf.imatrix import FILE as IMATRIX_FILE
from toolchain.export.gguf.tensor_types import fallback_warning, summary, type_table
from toolchain.stage import Input, StageConfig

NAME = "quantize"
VERSION = 1
TOOLS = ("llama-cpp-python", "gguf")


class Config(StageConfig):
    """`quantization` is any of llama.cpp's type names; `imatrix` the folder of the imatrix stage;
    `tensor_types` maps regular expressions on tensor names to types; `pure` switches mixes off.
    `exact` is the checkpoint whose own blocks the file gets (`toolchain.compress.exact`); `label`
    is what the file is called where `tensor_types` leave nothing of the type's own mix."""

    quantization: str
    imatrix: Input | None = None
    tensor_types: dict[str, str] = Field(default_factory=dict)
    pure: bool = False
    exact: Input | None = None
    label: str | None = None

    @field_validator("quantization")
    @classmethod
    def _exact_name(cls, name: str) -> str:
        return canonical_quantization(name)


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Quantize the source's GGUF into `out_dir/model-<TYPE>.gguf`.

    Tensors that fell back to a larger type are named in the measurements and, loudly, on standard
    error. Raises `UserError` when llama.cpp refuses (for example a type that needs an imatrix).
    """
    unquantized = source.only(".gguf")
    require_free_bytes(out_dir, unquantized.stat().st_size, "the quantized model")
    target = out_dir / f"model-{config.label or config.quantization}.gguf"
    imatrix = config.imatrix.path / IMATRIX_FILE if config.imatrix else None
    start = time.perf_counter()
    _quantize(unquantized, target, config, imatrix)
    exact_tensors = _write_exact(unquantized, target, config)
    wall_sec = time.perf_counter() - start
    rows = type_table(
        unquantized,
        target,
        config.quantization,
        with_imatrix=imatrix is not None,
        tensor_types=config.tensor_types,
        pure=config.pure,
    )
    if warning := fallback_warning(config.label or config.quantization, rows):
        print(warning, file=sys.stderr)
    return artifacts.describe(
        out_dir,
        format="gguf",
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[
            source.digest,
            *(other.digest for other in (config.imatrix, config.exact) if other is not None),
        ],
        versions={name: version(name) for name in TOOLS},
        measurements={
            "quantization": config.label or config.quantization,
            "wall_sec": round(wall_sec, 3),
            **({"exact_tensors": exact_tensors} if config.exact else {}),
            **summary(target, rows),
        },
    )


def _write_exact(unquantized: Path, target: Path, config: Config) -> int:
    """Put the trained blocks in; how many tensors have them."""
    if config.exact is None:
        return 0
    from toolchain.compress.exact.sidecar import read_exact
    from toolchain.export.gguf.exact_blocks import write_blocks

    return write_blocks(unquantized, target, read_exact(config.exact.path))


def _quantize(source: Path, target: Path, config: Config, imatrix: Path | None) -> None:
    with progress_bar(f"quantize {config.quantization}", unit="tensor") as bar:

        def progress(number: int, count: int, _: str) -> None:
            bar.total = count
            bar.update(number - bar.n)

        quantize(
            source,
            target,
            config.quantization,
            imatrix=imatrix,
            tensor_types=config.tensor_types,
            pure=config.pure,
            progress=progress,
        )
