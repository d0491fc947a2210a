"""What every stage shares: the base of its config and how it names its further inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import Field

from common.files import PARTIAL_SUFFIX, sha256_file
from common.strict import Strict
from toolchain.artifact import Artifact

RESUME_SUFFIX = ".resume"


class StageConfig(Strict):
    """Base of every stage's config."""


class Input(Strict):
    """A further input of a stage. The digest is part of the stage's key, the path is not."""

    digest: str
    path: Path = Field(exclude=True, repr=False)

    @classmethod
    def of_artifact(cls, artifact: Artifact) -> Input:
        return cls(digest=artifact.digest, path=artifact.path)

    @classmethod
    def of_file(cls, path: Path) -> Input:
        return cls(digest=sha256_file(path), path=path)


def resume_folder(out_dir: Path) -> Path:
    """A folder beside a stage's `out_dir` for what a killed run goes on from (checkpoints).

    It outlives failed and killed runs with the same inputs, and goes once the stage is finished.
    The stage makes it.
    """
    name = out_dir.name.removeprefix(".").removesuffix(PARTIAL_SUFFIX)
    return out_dir.with_name(f".{name}{RESUME_SUFFIX}")


@runtime_checkable
class Stage(Protocol):
    """A stage module. `TOOLS` names the packages whose versions decide its output; `VERSION` rises
    when the stage's own code changes what it writes."""

    NAME: str
    VERSION: int
    TOOLS: tuple[str, ...]

    @staticmethod
    def run(source: Artifact, config: StageConfig, out_dir: Path) -> Artifact: ...
