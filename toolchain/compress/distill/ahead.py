"""What of a build's distillation is refused before any work: who teaches whom, and the sizes.

The stage checks its pair again, with the rows; here the first measurement is not waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolchain.checkpoint.info import CheckpointInfo
    from toolchain.job import Job
    from toolchain.recipe import Recipe


def require_pair_ahead(job: Job) -> None:
    """Raise `UserError` when student and teacher are one checkpoint or have different tokens. Of
    what stages before make, only the tokens are known."""
    from toolchain.compress.distill.pair import require_distinct, require_same_tokens

    stages, settings = job.recipe.stages, job.recipe.distill
    if "distill" not in stages or settings.fresh or settings.exact or job.teacher_cache:
        return
    before = stages[: stages.index("distill")]
    student, teacher = job.student or job.base, job.teacher or job.base
    if all(name == "evaluate" for name in before):
        require_distinct(student.digest, teacher.digest)
    if settings.universal or "prune-vocab" in before or student.digest == teacher.digest:
        return
    trust = job.trust_remote_code
    require_same_tokens(student.path, teacher.path, trust_remote_code=trust)


def fresh_info(recipe: Recipe, teacher: CheckpointInfo) -> CheckpointInfo | None:
    """The student that will be made of the teacher, as far as sizes go, where the recipe has one
    made. Raises `UserError` when the teacher has no such smaller shape."""
    from toolchain.compress.distill.student.shape import choose_shape
    from toolchain.compress.prune.config import info_of_sizes
    from toolchain.compress.prune.layout import find_layout

    sizes = recipe.distill.fresh
    if sizes is None or "distill" not in recipe.stages:
        return None
    layout = find_layout(teacher)
    return info_of_sizes(teacher, layout)(choose_shape(teacher, layout, sizes).student)
