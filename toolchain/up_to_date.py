"""Is the finished bundle what this build would make? Decided in a moment, nothing heavy imported.

`log/build.json` in the bundle holds the key of everything that decided its bytes, and size and
modification time of each file; times and places live there too, never in a shipped file.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.files import read_json, sha256_json, write_json
from common.folders import make_folder
from toolchain.export.smoke_script import smoke_script
from toolchain.trust.sums import LOG_FOLDER, SIGNATURE_FILE

if TYPE_CHECKING:
    from toolchain.job import Job

LOG_FILE = "build.json"
_ROOT = Path(__file__).resolve().parents[1]
_CODE = ("common", "runtimes", "targets", "toolchain")
TOOLS = (
    *("accelerate", "bitsandbytes", "datasets", "gguf", "llama-cpp-python", "peft"),
    *("torch", "transformers"),
)
_FILES_OF_RECIPE = (("export", "calibration"), ("evaluate", "text"), ("evaluate", "task"))
_PLACES_OF_RECIPE = (
    *(("data", "files"), ("merge", "adapter")),
    *(("distill", "teacher"), ("distill", "student"), ("distill", "teacher_cache")),
)


def build_key(job: Job) -> str:
    """Digest of checkpoint, target, recipe, texts, task, tool versions and the tool's own code."""
    recipe = job.recipe.model_dump(mode="json", exclude={"name", "description"})
    for section, name in (*_FILES_OF_RECIPE, *_PLACES_OF_RECIPE):
        recipe[section].pop(name)  # their content counts, below
    return sha256_json(
        {
            "checkpoint": job.source.digest,
            "target": job.target.model_dump(mode="json"),
            "recipe": recipe,
            "quantization": job.quantization,
            "data": [item.digest for item in job.data],
            "adapter": _adapter_digest(job),
            "teacher": job.teacher.digest if job.teacher else None,
            "student": job.student.digest if job.student else None,
            "sizes": fresh.model_dump(mode="json") if (fresh := job.recipe.distill.fresh) else None,
            "teacher_cache": job.teacher_cache.digest if job.teacher_cache else None,
            "calibration": job.texts.calibration.digest,
            "evaluation": job.texts.evaluation.digest,
            "task": job.texts.task.digest if job.texts.task else None,
            "tools": {name: _version(name) for name in TOOLS},
            "code": _code_digest(),
        }
    )


def is_finished(bundle: Path, key: str) -> bool:
    """Whether the bundle has this key, passed, and none of its files was touched since."""
    try:
        log = read_json(bundle / LOG_FOLDER / LOG_FILE)
        return bool(log["key"] == key and log["passed"] and log["files"] == _marks(bundle))
    except (UserError, KeyError, TypeError, OSError):
        return False


def write_log(job: Job, key: str | None, *, passed: bool, speeds: Mapping[str, Any]) -> None:
    """Leave `log/build.json` in the bundle: key, verdict, when, how long each stage took, and what
    was timed to choose the model's type. A log without a key is that of a build that has not come
    to its end."""
    log = job.bundle / LOG_FOLDER
    make_folder(log)
    facts = {
        "key": key,
        "passed": passed,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "checkpoint": str(job.info.path),
        "stages": [event.as_json() for event in job.workspace.events],
        "speeds": dict(speeds),
        "files": _marks(job.bundle),
    }
    write_json(log / LOG_FILE, facts)


def _adapter_digest(job: Job) -> str | None:
    if job.recipe.merge.adapter is None:
        return None
    from toolchain.compress.adapter import adapter_digest

    return adapter_digest(job.recipe.merge.adapter)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # not every system has every engine
        return None


def _marks(bundle: Path) -> dict[str, list[int]]:
    """Size and modification time of every shipped file; a signature may come later."""
    marks: dict[str, Any] = {}
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle)
        shipped = name.parts[0] != LOG_FOLDER and name.as_posix() != SIGNATURE_FILE
        if path.is_file() and shipped:
            facts = path.stat()
            marks[name.as_posix()] = [facts.st_size, facts.st_mtime_ns]
    return marks


def _code_digest() -> str:
    digest = hashlib.sha256()
    for package in _CODE:
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(path.relative_to(_ROOT).as_posix().encode() + path.read_bytes())
    digest.update(smoke_script().encode())
    return digest.hexdigest()
