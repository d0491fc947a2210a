"""Stage `student`: a teacher becomes a smaller stock checkpoint of its architecture, to be trained.

hf → hf. The shape is the named one or chosen (`shape.py`); layers, heads, channels and hidden
entries that matter most to the teacher stay, and the outputs behind the cuts are fitted to the
teacher's, as in pruning.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path

from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import FORMAT, measurements, require_checkpoint
from toolchain.compress.distill.student.settings import Student
from toolchain.stage import Input, StageConfig

NAME = "student"
VERSION = 2
TOOLS = ("accelerate", "torch", "transformers")


class Config(StageConfig):
    """`text` is the calibration text."""

    text: Input
    settings: Student
    trust_remote_code: bool = False


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Make the student. Raises `UserError` when the teacher's architecture is not known or has no
    such smaller shape."""
    from toolchain.compress.distill.student.shape import choose_shape
    from toolchain.compress.prune.calibration import read_batches
    from toolchain.compress.prune.cut import choose_cut, layer_kinds
    from toolchain.compress.prune.layout import find_layout
    from toolchain.compress.prune.make import make_checkpoint
    from toolchain.compress.prune.scores import score
    from toolchain.compress.prune.settings import Prune

    require_checkpoint(source, NAME)
    start, settings = time.perf_counter(), config.settings
    info = inspect(source.path)
    layout = find_layout(info)
    chosen = choose_shape(info, layout, settings)
    batches = read_batches(
        config.text.path,
        source.path,
        settings.calibration_tokens,
        settings.seed,
        trust_remote_code=config.trust_remote_code,
    )
    scores = score(info, layout, batches, Prune(seed=settings.seed))
    cut = choose_cut(chosen.teacher, chosen.student, scores, layer_kinds(info, layout))
    fitted_on = batches if settings.recover else ()
    make_checkpoint(source, info, layout, cut, fitted_on, out_dir)
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.text.digest],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={
            **measurements(inspect(out_dir)),
            "teacher_parameters": chosen.teacher_parameters,
            "student_parameters": chosen.parameters,
            "ratio": chosen.ratio,
            "teacher_shape": chosen.teacher.text(),
            "shape": chosen.student.text(),
            "kept_layers": list(cut.layers),
            "calibration_tokens": sum(batch.tokens for batch in batches),
            "wall_sec": round(time.perf_counter() - start, 3),
        },
    )
