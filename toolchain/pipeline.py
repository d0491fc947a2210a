"""Run stages so that nothing finished is done twice and nothing half-done is ever used."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.damage import told_as_damage
from common.files import (
    LOCK_SUFFIX,
    OLD_SUFFIX,
    PARTIAL_SUFFIX,
    clear_leftovers,
    folder_in_the_making,
    lock_of,
    read_object,
    sha256_json,
    write_json,
)
from common.folders import make_folder, remove_folder
from common.locks import LOCK_FILE, free, only_writer, passing_turn
from common.scratch import clear_left_behind
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.cost import Cost, read_cost, watching
from toolchain.stage import RESUME_SUFFIX, StageConfig, resume_folder

STAGES_FOLDER = ".stages"
_KEY_LENGTH = 16
_ENDINGS = (PARTIAL_SUFFIX, OLD_SUFFIX, RESUME_SUFFIX, LOCK_SUFFIX)


def say_on_stderr(line: str) -> None:
    """Progress for people; results go to stdout."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class StageEvent:
    """A stage that was run, or found finished, in this build. `cost` is that of the run that made
    it, in whatever build that was."""

    stage: str
    result: str
    reused: bool
    wall_sec: float = 0.0
    cost: Cost | None = None

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
    if not finished(stage, source, config, workspace):
        make_folder(folder.parent)
        waiting = f"{stage.NAME}: another process makes it; waiting for that …"
        with passing_turn(lock_of(folder), lambda: say(waiting)):
            if not finished(stage, source, config, workspace):
                return _made(stage, source, config, folder, workspace, say)
    event = StageEvent(stage.NAME, folder.name, reused=True, cost=_cost_of(folder))
    workspace.events.append(event)
    return artifacts.load_sound(folder)


def _made(
    stage: Any,
    source: Artifact,
    config: StageConfig,
    folder: Path,
    workspace: Workspace,
    say: Callable[[str], None],
) -> Artifact:
    say(f"{stage.NAME} …")
    with watching() as watch, folder_in_the_making(folder) as partial:
        stage.run(source, config, partial)
    remove_folder(resume_folder(folder))
    cost = watch.cost
    write_json(_cost_file(folder), cost.as_json())
    event = StageEvent(stage.NAME, folder.name, reused=False, wall_sec=cost.wall_sec, cost=cost)
    workspace.events.append(event)
    say(f"{stage.NAME} done in {cost.wall_sec:.1f} s")
    return artifacts.load(folder)


@contextlib.contextmanager
def writing(workspace: Workspace) -> Iterator[None]:
    """Be the only one that writes to the workspace, cleared of what killed runs left. Raises
    `UserError` that names the process that writes to it now."""
    with only_writer(workspace.root):
        clear_left_behind()
        for folder in (workspace.root, workspace.stages):
            if folder.is_dir():
                clear_folder(folder)
        yield


def clear_folder(folder: Path) -> None:
    """Remove what killed runs left in a folder of results: whatever was half made, and what a
    stage that is finished since went on from. What a process works on now stays."""
    for path in sorted(folder.glob(".*")):
        if path.name != LOCK_FILE and path.suffix in _ENDINGS:
            with contextlib.suppress(PermissionError):  # another user's
                _clear(path)


def _clear(path: Path) -> None:
    if path.suffix == PARTIAL_SUFFIX and path.is_file():
        with free(path):
            return
    final = path.with_name(path.stem.removeprefix("."))
    with free(lock_of(final)) as nobody:
        if nobody:
            clear_leftovers(final)
            if (final / artifacts.MANIFEST).is_file():
                remove_folder(resume_folder(final))


def _cost_file(folder: Path) -> Path:
    """Beside the stage's folder, whose bytes are the same every time."""
    return folder.with_name(f".{folder.name}.cost.json")


def _cost_of(folder: Path) -> Cost | None:
    path = _cost_file(folder)
    if not path.is_file():
        return None
    with told_as_damage(path, "remove it: only the report's figures of the stage's cost are lost"):
        return read_cost(read_object(path))
