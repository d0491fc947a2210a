"""Bring a bundle to a device: only what it does not have, each file from where it stopped.

    copied = copy_bundle(device, facts, bundle, "~/.cache/edgeforge/bundles/demo-laptop")
    copied.copied_bytes     # 0 when nothing changed

The device digests what it has and names what is missing by SHA256SUMS. rsync moves it where both
sides have one (it also sends only the changed parts of a file); else the bytes go through ssh
alone. Files are complete or absent in the bundle's folder; parts wait beside it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.progress import progress_bar
from runtimes.remote.call import Call, Cancelled, full_disk
from runtimes.remote.faults import DeviceError, last_line
from runtimes.remote.ssh import Connection, end, quoted

if TYPE_CHECKING:
    from runtimes.remote.preflight import DeviceFacts

SUMS_FILE = "SHA256SUMS"
_BLOCK_BYTES = 1 << 18
_RSYNC_SILENCE_SEC = 60
_NEVER = threading.Event()


@dataclass(frozen=True)
class Copied:
    """`copied_bytes` counts the bytes of files that really went over; `way` is rsync, ssh or
    nothing."""

    folder: str
    files: int
    copied_bytes: int
    sec: float
    way: str

    def as_json(self) -> dict[str, Any]:
        """For `device.json`."""
        return dict(vars(self))


def copy_bundle(
    device: Connection,
    facts: DeviceFacts,
    bundle: Path,
    folder: str,
    *,
    python: str,
    rsync: bool = True,
    cancel: threading.Event = _NEVER,
) -> Copied:
    """Make `folder` on the device hold this bundle. Raises `DeviceError`; what went over stays."""
    start = time.monotonic()
    files = _files(bundle)
    request = {
        "verb": "prepare",
        "folder": folder,
        "files": {**files},
        "sums": (bundle / SUMS_FILE).read_text("utf-8"),
    }
    doing = f"comparing {bundle.name} with what is there"
    with Call(device, python, request, doing=doing, place="copy", cancel=cancel) as call:
        answer = call.last()
    missing: dict[str, int] = answer["missing"]
    if not missing:
        return Copied(answer["folder"], 0, 0, time.monotonic() - start, "nothing")
    use_rsync = rsync and facts.rsync and facts.clean_shell and shutil.which("rsync") is not None
    if use_rsync:
        count = _by_rsync(device, bundle, answer, sorted(missing), cancel)
    else:
        count = _by_ssh(device, bundle, folder, files, missing, python=python, cancel=cancel)
    way = "rsync" if use_rsync else "ssh"
    return Copied(answer["folder"], len(missing), count, time.monotonic() - start, way)


def _files(bundle: Path) -> dict[str, tuple[int, str]]:
    """Name → size and SHA-256, by SHA256SUMS. Raises `UserError` when a file of it is not there."""
    found = {}
    for line in (bundle / SUMS_FILE).read_text("utf-8").splitlines():
        digest, _, name = line.partition("  ")
        path = bundle / name
        if len(digest) != 64 or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{bundle / SUMS_FILE} has a bad line: {line!r}", "build it again")
        if not path.is_file():
            raise UserError(f"{path} is missing", "build the bundle again: make target=…")
        found[name] = (path.stat().st_size, digest)
    return found


def _by_ssh(
    device: Connection,
    bundle: Path,
    folder: str,
    files: Mapping[str, tuple[int, str]],
    missing: Mapping[str, int],
    *,
    python: str,
    cancel: threading.Event,
) -> int:
    rows = [[name, *files[name], start] for name, start in sorted(missing.items())]
    request = {"verb": "receive", "folder": folder, "files": rows}
    total, sent = sum(files[name][0] - start for name, start in missing.items()), 0
    doing = f"copying {bundle.name}"
    with (
        Call(device, python, request, doing=doing, place="copy", cancel=cancel) as call,
        progress_bar(f"copy to {device.host}", unit="B", total=total) as bar,
    ):
        for name, start in sorted(missing.items()):
            with (bundle / name).open("rb") as stream:
                stream.seek(start)
                while block := stream.read(_BLOCK_BYTES):
                    if cancel.is_set():
                        raise Cancelled
                    if not call.send(block):
                        break
                    sent += len(block)
                    bar.update(len(block))
        if call.last()["event"] != "done":
            raise device.lost("", doing, "copy")
    return sent


def _by_rsync(
    device: Connection,
    bundle: Path,
    answer: Mapping[str, Any],
    names: list[str],
    cancel: threading.Event,
) -> int:
    words = ["rsync", "-rt", "--checksum", "--partial", f"--partial-dir={answer['partials']}"]
    words += ["--stats", f"--timeout={_RSYNC_SILENCE_SEC}", "--files-from=-", "--from0", "-s"]
    words += ["-e", quoted(device.words()), f"{bundle}/", f"device:{answer['folder']}/"]
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        listed: bytes | None = "\0".join(names).encode()
        while True:
            try:
                out, err = process.communicate(listed, timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                listed = None
                if cancel.is_set():
                    raise Cancelled from None
    finally:
        end(process)
    if process.returncode != 0:
        raise _rsync_fault(device, process.returncode, err.decode("utf-8", "replace"), bundle.name)
    return _literal_bytes(out.decode("utf-8", "replace"))


def _rsync_fault(device: Connection, code: int, said: str, what: str) -> DeviceError:
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return full_disk(device.host, "copy")
    if code in (12, 20, 30, 255) or code < 0:  # the stream broke, a signal, a time-out, ssh's own
        return device.lost("", f"copying {what}", "copy")
    return DeviceError(
        f"rsync to {device.host} failed (code {code}): {last_line(said, 'no reason given')}",
        "try it without: --no-rsync",
        place="copy",
    )


def _literal_bytes(stats: str) -> int:
    """Bytes of files that were sent, not those that the other side had in an older form."""
    found = re.search(r"^Literal data: ([\d.,]+)", stats, re.MULTILINE)
    found = found or re.search(r"^Total (?:transferred )?file size: ([\d.,]+)", stats, re.MULTILINE)
    return int(re.sub(r"\D", "", found[1])) if found else 0
