"""The writing of a cache as a file: all that a process needs to know, here or elsewhere."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from common.files import read_json, write_json
from common.strict import Strict, parse
from toolchain.compress.distill.cache.facts import PLAN, Facts

ROWS_FOLDER = "rows"


class CacheJob(Strict):
    """One cache in `folder`, of rows encoded in `rows`. This run writes the parts whose number is
    `share` modulo `shares`. `threads` of each process are kept when a run goes on, because sums in
    another order round otherwise."""

    facts: Facts
    model: Path
    folder: Path
    rows: Path
    pad_token_id: int
    threads: int = Field(ge=1)
    share: int = Field(default=0, ge=0)
    shares: int = Field(default=1, ge=1)
    trust_remote_code: bool = False

    def write(self) -> Path:
        """Write the job's file and return its path."""
        path = self.folder / PLAN
        write_json(path, self.model_dump(mode="json"))
        return path


def read_job(path: Path) -> CacheJob:
    """The job of a file. Raises `UserError` when it is none."""
    return parse(CacheJob, read_json(path), str(path))
