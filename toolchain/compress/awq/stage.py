"""Stage `awq`: scales are moved between neighbouring modules so that rounding costs less.

hf → hf in float32: a stock checkpoint that computes the same function, and loses less when it is
quantized to the type that the scales were searched for.
"""

from __future__ import annotations

import shutil
import time
from importlib.metadata import version
from pathlib import Path

from pydantic import Field

from common.errors import UserError
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import FORMAT, measurements, require_checkpoint
from toolchain.compress.awq.settings import Awq
from toolchain.hf import idle_threads
from toolchain.stage import Input, StageConfig

NAME = "awq"
VERSION = 1
TOOLS = ("accelerate", "llama-cpp-python", "torch", "transformers")
_STORED = "F32"  # a scaled weight has more digits than bfloat16 and float16 hold


class Config(StageConfig):
    """`text` is the calibration text; `tensor_types` and `pure` are the export's."""

    text: Input
    settings: Awq = Awq()
    tensor_types: dict[str, str] = Field(default_factory=dict)
    pure: bool = False
    trust_remote_code: bool = False


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Search and move. Raises `UserError` for a type without blocks, an architecture that is not
    known or has no place for scales, text that is too short and values that are not numbers."""
    from toolchain.compress.awq.layers import scaled_layers
    from toolchain.compress.awq.search import Scales
    from toolchain.compress.exact.plan import file_types, require_blocks
    from toolchain.compress.prune.calibration import read_batches
    from toolchain.compress.prune.layout import find_layout
    from toolchain.compress.prune.write import write_checkpoint
    from toolchain.compress.sparse.record import RECORD
    from toolchain.compress.sparse.tensors import OwnTensors, float32_config

    require_checkpoint(source, NAME)
    start, settings, trust = time.perf_counter(), config.settings, config.trust_remote_code
    info = inspect(source.path)
    layout = find_layout(info)
    if not layout.folds:
        raise UserError(
            f"{NAME} knows no place in '{info.model_type}' where scales could move",
            f"leave {NAME} out; gptq needs none",
        )
    types = file_types(
        source.path,
        require_blocks("awq.quantization", settings.quantization),
        with_imatrix=True,
        tensor_types=config.tensor_types,
        pure=config.pure,
        trust_remote_code=trust,
    )
    batches = read_batches(
        config.text.path,
        source.path,
        settings.calibration_tokens,
        settings.seed,
        trust_remote_code=trust,
    )
    found: list[Scales] = []
    with idle_threads():
        changed = scaled_layers(info, layout, batches, types, settings, found)
        tensors = OwnTensors(info, layout, _STORED)
        write_checkpoint(source, float32_config(info.config), tensors, changed, out_dir)
    if (source.path / RECORD).is_file():  # zeros stay zeros
        shutil.copyfile(source.path / RECORD, out_dir / RECORD)
    before = sum(one.loss_before for one in found)
    after = sum(one.loss_after for one in found)
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.text.digest],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={
            **measurements(inspect(out_dir)),
            "quantization": settings.quantization,
            "places": len(found),
            "scaled_places": sum(one.loss_after < one.loss_before for one in found),
            "output_error_ratio": after / before if before else None,
            "calibration_tokens": sum(batch.tokens for batch in batches),
            "wall_sec": round(time.perf_counter() - start, 3),
        },
    )
