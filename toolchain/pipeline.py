"""Run stages so that nothing finished is done twice and nothing half-done is ever used."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.files import folder_in_the_making, sha256_json
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.stage import StageConfig, resume_folder

STAGES_FOLDER = ".stages"
_KEY_LENGTH = 16


def say_on_stderr(line: str) -> None:
    """Progress for people; results go to stdout."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class StageEvent:
    """A stage that was run, or found finished, in this build."""

    stage: str
    result: str
    reused: bool
    wall_sec: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The record for the build's log."""
        return asdict(self)


@dataclass(frozen=True)
class Workspace:
    """Where finished stages lie (`OUT/<model>/.stages`), and what happened in this build."""

    root: Path
    events: list[StageEvent] = field(default_factory=list)

    @property
    def stages(self) -> Path:
        return self.root / STAGES_FOLDER


def stage_versions(stage: Any) -> dict[str, str]:
    """Versions of the packages that decide a stage's output."""
    return {name: version(name) for name in stage.TOOLS}


def stage_folder(stage: Any, source: Artifact, config: StageConfig, workspace: Workspace) -> Path:
    """Where the stage's result for exactly these inputs lies, or will lie."""
    key = sha256_json(
        {
            "stage": stage.NAME,
            "version": stage.VERSION,
            "source": source.digest,
            "config": config.model_dump(mode="json"),
            "tools": stage_versions(stage),
        }
    )
    return workspace.stages / f"{stage.NAME}-{key[:_KEY_LENGTH]}"


def finished(stage: Any, source: Artifact, config: StageConfig, workspace: Workspace) -> bool:
    """Whether the stage's result for exactly these inputs is there."""
    return (stage_folder(stage, source, config, workspace) / artifacts.MANIFEST).is_file()


def run_stage(
    stage: Any,
    source: Artifact,
    config: StageConfig,
    workspace: Workspace,
    say: Callable[[str], None] = say_on_stderr,
) -> Artifact:
    """The stage's artifact: the finished one when there is one, else made now and moved into place.

    Raises whatever the stage raises; the workspace then holds what it held before.
    """
    folder = stage_folder(stage, source, config, workspace)
    if finished(stage, source, config, workspace):
        workspace.events.append(StageEvent(stage.NAME, folder.name, reused=True))
        return artifacts.load(folder)
    say(f"{stage.NAME} …")
    start = time.perf_counter()
    with folder_in_the_making(folder) as partial:
        stage.run(source, config, partial)
    shutil.rmtree(resume_folder(folder), ignore_errors=True)
    wall_sec = time.perf_counter() - start
    workspace.events.append(StageEvent(stage.NAME, folder.name, False, round(wall_sec, 3)))
    say(f"{stage.NAME} done in {wall_sec:.1f} s")
    return artifacts.load(folder)
