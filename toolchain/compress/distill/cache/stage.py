"""Stage `teacher-cache`: a teacher and prepared data become a cache, before the student trains.

hf (the teacher) → teacher-cache. Parts lie in the resume folder while it is written, so a killed
build goes on with the next part.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path

from common.files import link_file
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.intake import require_checkpoint
from toolchain.compress.distill.cache.facts import Manifest
from toolchain.compress.distill.cache.settings import TeacherCache
from toolchain.pipeline import say_on_stderr
from toolchain.stage import Input, StageConfig, resume_folder

NAME = "teacher-cache"
VERSION = 1
TOOLS = ("accelerate", "bitsandbytes", "torch", "transformers")


class Config(StageConfig):
    """`data` is a prepared folder, `student` the checkpoint whose tokenizer and context make rows
    of it."""

    data: Input
    student: Input
    settings: TeacherCache = TeacherCache()
    trust_remote_code: bool = False


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Write the cache. Raises `UserError`; finished parts stay beside `out_dir` then."""
    from toolchain.compress.distill.cache.run import write_cache
    from toolchain.compress.distill.cache.settle import settle

    require_checkpoint(source, NAME)
    start, settings = time.perf_counter(), config.settings
    folder = resume_folder(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    job = settle(
        source,
        config.student.path,
        config.data.path,
        settings,
        folder,
        say_on_stderr,
        trust_remote_code=config.trust_remote_code,
    )
    made = write_cache(job, settings.processes, settings.accelerate_config)
    assert made is not None  # all parts are this run's
    for path in folder.iterdir():
        if path.is_file():
            link_file(path, out_dir / path.name)  # the parts stay, should this run be killed now
    return artifacts.describe(
        out_dir,
        format=NAME,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.data.digest, config.student.digest],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={**figures(made), "wall_sec": round(time.perf_counter() - start, 3)},
    )


def figures(made: Manifest) -> dict[str, int]:
    """What a reader wants to know of a cache."""
    size_bytes = sum(part.size_bytes(made.facts) for part in made.parts)
    places = sum(part.places for part in made.parts)
    return {
        "places": places,
        "top_k": made.facts.top_k,
        "size_bytes": size_bytes,
        "bytes_per_place": round(size_bytes / max(1, places)),
        "parts": len(made.parts),
    }
