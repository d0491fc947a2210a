"""Write a cache to its end, or this machine's share of it; and join what several machines wrote.

write_cache(job, processes=1, accelerate=None)
join(folder, [Path("from-a"), Path("from-b")])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.files import copy_file, sha256_file
from common.folders import remove_folder
from common.locks import only_writer
from toolchain.compress.distill.cache.facts import (
    MANIFEST,
    PLAN,
    Facts,
    Manifest,
    finished_parts,
    planned,
    read_facts,
    write_manifest,
)
from toolchain.compress.distill.cache.job import ROWS_FOLDER, CacheJob
from toolchain.compress.distill.cache.store import read_manifest
from toolchain.train.launch import LAUNCH_FILE, run_module

WORKER = "toolchain.compress.distill.cache.worker"


def write_cache(job: CacheJob, processes: int, accelerate: Path | None) -> Manifest | None:
    """Write the job's parts; the manifest once all parts of the cache are there, None before. A
    complete cache is checked, and what is damaged in it written again."""
    _drop_damaged(job.folder, job.facts)
    plan = job.write()
    if processes > 1 or accelerate is not None:
        run_module(WORKER, plan, processes, job.threads, accelerate)
    else:
        write_here(job)
    return _seal(job.folder, job.facts)


def write_here(job: CacheJob) -> None:
    """Write in this process, with the job's threads."""
    import torch

    from toolchain.compress.distill.cache.write import write_parts

    before = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        write_parts(job)
    finally:
        torch.set_num_threads(before)


def join(folder: Path, others: Sequence[Path]) -> Manifest:
    """Take the parts of other folders into `folder` and seal it. Raises `UserError` when they are
    of another cache, a part is damaged, or one is still missing."""
    found = [(other, _facts_of(other)) for other in others]
    facts = read_facts(folder) or found[0][1]
    for other, own in found:
        if own.key != facts.key:
            changed = [n for n in Facts.model_fields if getattr(own, n) != getattr(facts, n)]
            raise UserError(
                f"{other} is part of another cache: another {', '.join(changed)}",
                "write all parts with the same teacher, data and settings",
            )
    with only_writer(folder):
        for other, _ in found:
            _take(folder, other, facts)
        sealed = _seal(folder, facts)
    if sealed is None:
        there = {(part.split, part.number) for part in finished_parts(folder, facts)}
        lacking = [f"{s}-{n:05d}" for s, n, *_ in planned(facts) if (s, n) not in there]
        raise UserError(
            f"the cache still lacks {len(lacking)} of {len(planned(facts))} parts: "
            f"{', '.join(lacking[:10])}",
            "write them (--part I/N) and join their folder too; what was joined stays",
        )
    return sealed


def _facts_of(folder: Path) -> Facts:
    facts = read_facts(folder) if folder.is_dir() else None
    if facts is None:
        raise UserError(f"{folder} holds no part of a teacher cache", "check the paths of --join")
    return facts


def _take(folder: Path, other: Path, facts: Facts) -> None:
    there = {part.file for part in finished_parts(folder, facts)}
    for part in finished_parts(other, facts):
        if part.file in there:
            continue
        if sha256_file(other / part.file) != part.sha256:
            raise UserError(
                f"{other / part.file} is damaged: its digest is another", "copy or write it again"
            )
        note = f"{part.file}.json"  # last: a part without it is none
        for name in (part.file, note):
            copy_file(other / name, folder / name)


def _drop_damaged(folder: Path, facts: Facts) -> None:
    """Forget parts whose bytes are not those that were written."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for part in finished_parts(folder, facts):
        if sha256_file(folder / part.file) != part.sha256:
            (folder / f"{part.file}.json").unlink()


def _seal(folder: Path, facts: Facts) -> Manifest | None:
    parts = finished_parts(folder, facts)
    if len(parts) < len(planned(facts)):
        return None
    write_manifest(folder, facts, parts)
    for name in (PLAN, LAUNCH_FILE):  # of this machine
        (folder / name).unlink(missing_ok=True)
    for rows in folder.glob(f"{ROWS_FOLDER}-*"):
        remove_folder(rows)
    return read_manifest(folder)
