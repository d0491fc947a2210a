"""Whether a cache is of what a training reads: its teacher, its tokens, its rows."""

from __future__ import annotations

from common.errors import UserError
from common.files import sha256_file
from toolchain.compress.distill.cache.facts import SPLITS, Facts
from toolchain.compress.distill.cache.settle import vocabulary_digest
from toolchain.compress.distill.cache.write import FILES
from toolchain.train.job import TrainJob


def require_fit(facts: Facts, job: TrainJob, teacher: str | None) -> None:
    """Raise `UserError` when the cache is of another teacher (by its digest, where one is named),
    tokenizer or data set than the job's, or has not got its temperature."""
    from toolchain.hf import load_tokenizer

    if teacher is not None and facts.teacher != teacher:
        raise _other("teacher", "name the teacher that wrote it, or none")
    tokenizer = load_tokenizer(job.model, trust_remote_code=job.trust_remote_code)
    if facts.vocabulary != vocabulary_digest(tokenizer):
        raise _other("tokenizer", "the student's tokens are others, or have other ids")
    here = {
        "max_tokens": job.max_tokens,
        "packing": job.settings.packing,
        "loss_on": job.settings.loss_on,
    }
    changed = [
        f"{name} {getattr(facts, name)} (here {value})"
        for name, value in here.items()
        if getattr(facts, name) != value
    ]
    if changed:
        raise UserError(
            f"the teacher cache was written with {', '.join(changed)}",
            "set the same here, or write the cache again",
        )
    for split in SPLITS:
        if facts.splits[split].digest != sha256_file(job.folder / FILES[split]):
            raise _other("data set", f"the {split} rows are not those that the teacher read")
    assert job.distillation is not None
    facts.record.index_of(job.distillation.settings.temperature)


def _other(what: str, why: str) -> UserError:
    return UserError(
        f"the teacher cache is of another {what}",
        f"{why}; or write a cache for this training: edgeforge teacher-cache",
    )
