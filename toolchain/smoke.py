"""Run a bundle's own smoke test in a fresh process and keep its result in the bundle's `log/`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import Told, UserError
from common.files import read_json, write_json, write_text
from common.folders import make_folder
from common.resources import lack_of_process
from common.scratch import ScratchFolder
from common.with_parent import with_parent
from toolchain.report.smoke import smoke_report
from toolchain.report.strings import LANGUAGES
from toolchain.trust.sums import LOG_FOLDER, require_sound

SMOKE_TEST, PROFILE = "smoke_test.py", "profile.json"
ANY_ENGINE = "auto"
_CANNOT_RUN = 2
_TIMEOUT_SEC = 3600.0


@dataclass(frozen=True)
class SmokeResult:
    """What the smoke test found: its whole result, and the table that it printed."""

    passed: bool
    data: Mapping[str, Any]
    table: str

    def failed_checks(self) -> list[str]:
        """Names of the checks that failed."""
        return failed_checks(self.data)


def failed_checks(data: Mapping[str, Any]) -> list[str]:
    """Names of the checks that failed, of what a smoke test wrote."""
    return [check["name"] for check in data["checks"] if check["status"] == "failed"]


def run_smoke(
    bundle: Path,
    *,
    threads: int | None = None,
    quick: bool = False,
    engine: str | None = None,
    timeout_sec: float = _TIMEOUT_SEC,
) -> SmokeResult:
    """Test the bundle and write `log/smoke.json` and `log/smoke.md` into it.

    The engine is the one that recorded the answers, so that they must be equal; `engine` names
    another one (`auto`: the first that works, as on a device).

    A failed check is a result, not an error. Raises `UserError` when there is no bundle, it is
    damaged, or the test could not run: engine missing, died, too slow.
    """
    if not (bundle / SMOKE_TEST).is_file():
        raise UserError(
            f"there is no bundle in {bundle}", "build it first: make target=… (edgeforge build)"
        )
    require_sound(bundle)  # the test is the bundle's own code: a changed one must not run
    with ScratchFolder("smoke") as folder:
        report = Path(folder) / "smoke.json"
        command = [sys.executable, "-B", str(bundle / SMOKE_TEST), "--json", str(report)]
        command += [] if threads is None else ["--threads", str(threads)]
        command += ["--quick"] if quick else []
        command += ["--engine", engine or _recorded_engine(bundle)]
        done = _run(command, timeout_sec)
        if not report.is_file():
            raise _cannot_run(done)
        data = read_json(report)
    keep_result(bundle / LOG_FOLDER, data)
    return SmokeResult(data["verdict"] == "passed", data, done.stdout)


def keep_result(log: Path, data: Mapping[str, Any]) -> None:
    """Write what a smoke test found into `log`: `smoke.json`, and `smoke.md` in each language."""
    make_folder(log)
    write_json(log / "smoke.json", data)
    for language in LANGUAGES:
        name = "smoke.md" if language == LANGUAGES[0] else f"smoke.{language}.md"
        write_text(log / name, smoke_report(data, language))


def _recorded_engine(bundle: Path) -> str:
    """The name in `profile.json`; whatever is wrong with that file the smoke test itself says."""
    try:
        return str(read_json(bundle / PROFILE)["recorded"]["name"])
    except (UserError, KeyError, TypeError):
        return ANY_ENGINE


def _run(command: list[str], timeout_sec: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            with_parent(command), capture_output=True, text=True, timeout=timeout_sec
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"the smoke test did not end within {timeout_sec:.0f} s and was stopped",
            "look at the machine's load and free memory, then try again",
        ) from None


def _cannot_run(done: subprocess.CompletedProcess[str]) -> Told:
    reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if lack := lack_of_process(done.returncode, done.stderr, "the smoke test"):
        return lack
    if done.returncode == _CANNOT_RUN:
        return UserError(reason, "build the bundle again, or install the engine it names")
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
    return UserError(
        f"the smoke test died ({how}): {reason}",
        "the engine may be short of memory or refuse this model: edgeforge doctor",
    )
