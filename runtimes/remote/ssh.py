"""One connection to a device with the system's `ssh`: the user's config, keys and known hosts.

    with connect("user@orin", SshOptions(options=("Port=2222",))) as device:
        device.run("uname -m")

The connection is made once (ControlMaster, its socket in a private folder) and shared by every
command. Host keys are always checked; nothing ever waits at a prompt. When this process ends, even
killed, the connection ends too.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from common.errors import UserError
from common.scratch import ScratchFolder
from runtimes.remote.faults import DeviceError, fault, lost

CONNECT_SEC = 60.0
_CONNECT_TRY_SEC = 10
_END_SEC = 5.0
_LONGEST_PLACE = 50  # a socket's path has about 100 bytes, of which ssh and our names take half
_MUX_SELF_DEFENCE = ("-F", "/dev/null", "-o", "ControlMaster=no", "-o", "ProxyCommand=false")
# Ours come after the user's, because ssh takes the first value of each.
_DEFAULTS = (
    *(f"ConnectTimeout={_CONNECT_TRY_SEC}", "ServerAliveInterval=5", "ServerAliveCountMax=3"),
    *("RemoteCommand=none", "RequestTTY=no", "ClearAllForwardings=yes"),
)


@dataclass(frozen=True)
class SshOptions:
    """What goes to ssh beside the host: `-F config`, and `-o` for each of `options`."""

    config: Path | None = None
    options: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """As words of ssh's command line."""
        words = [] if self.config is None else ["-F", str(self.config)]
        return words + [word for option in self.options for word in ("-o", option)]


@dataclass(frozen=True)
class Connection:
    """An open connection; commands run through its socket."""

    host: str
    socket: Path
    _master: subprocess.Popen[bytes]
    _said: Path

    def words(self) -> list[str]:
        """The ssh command up to the host's name. Without its master it fails; it never dials."""
        return ["ssh", "-S", str(self.socket), *_MUX_SELF_DEFENCE]

    def command(self, remote: str) -> list[str]:
        """The command that runs `remote` in the login shell over there."""
        return [*self.words(), "-T", "device", remote]

    def run(
        self, remote: str, *, stdin: bytes = b"", timeout_sec: float, doing: str, place: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run to its end. Raises `DeviceError` when the connection breaks or it takes too long."""
        process = self.start(remote)
        try:
            out, err = process.communicate(stdin, timeout=timeout_sec)
        except subprocess.TimeoutExpired:
            raise DeviceError(
                f"{self.host} did not answer within {timeout_sec:.0f} s while {doing}",
                "look at the device's load, then try again",
                place=place,
            ) from None
        finally:
            end(process)
        if process.returncode == 255:
            raise self.lost(err.decode("utf-8", "replace"), doing, place)
        return subprocess.CompletedProcess(remote, process.returncode, out, err)

    def start(
        self, remote: str, *, stderr: int | IO[bytes] = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """Start it; its stdin and stdout are pipes. In a session of its own: Ctrl-C at the terminal
        is ours to handle, in order."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.command(remote), stdin=pipe, stdout=pipe, stderr=stderr, start_new_session=True
        )

    def lost(self, said: str, doing: str, place: str) -> DeviceError:
        """The error for a command whose ssh ended; the master knows more about the reason."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._master.wait(timeout=0.5)
        told = self._said.read_text("utf-8", "replace")
        return lost(self.host, told if told.strip() else said, doing, place=place)


@contextlib.contextmanager
def connect(host: str, options: SshOptions | None = None) -> Iterator[Connection]:
    """Connect for the duration of the block. Raises `DeviceError` with OpenSSH's reason."""
    check_host(host)
    if shutil.which("ssh") is None:
        raise UserError("there is no `ssh` on this machine", "install the OpenSSH client")
    base = tempfile.gettempdir()
    place = base if len(base) < _LONGEST_PLACE else "/tmp"
    with ScratchFolder("ssh", place) as folder:
        socket, said = Path(folder, "s"), Path(folder, "stderr")
        with said.open("wb") as log:
            master = _start_master(host, options or SshOptions(), socket, log)
        try:
            _wait_until_connected(host, master, socket, said)
            yield Connection(host, socket, master, said)
        finally:
            end(master)


def check_host(host: str) -> str:
    """The host as ssh will take it. Raises `UserError` for options and what is no name."""
    if re.fullmatch(r"[^@\s/]+@?[^@\s/]*:\d+", host) and host.count(":") == 1:
        name, port = host.rsplit(":", 1)
        raise UserError(
            f"'{host}': a port is no part of the host", f"--host {name} --ssh-option Port={port}"
        )
    if not re.fullmatch(r"[\w.%+@:\[\]-]+", host) or host.startswith("-") or "@-" in host:
        raise UserError(
            f"'{host}' is no host", "give USER@HOST, or a name of your ~/.ssh/config: user@orin"
        )
    return host


def end(process: subprocess.Popen[bytes]) -> None:
    """Close its pipes; what does not end by itself is ended."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    for sign in (None, signal.SIGTERM, signal.SIGKILL):
        if sign is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_END_SEC)
            return


def quoted(words: Sequence[str]) -> str:
    """Words for the login shell over there."""
    return " ".join(shlex.quote(word) for word in words)


def _start_master(
    host: str, options: SshOptions, socket: Path, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    own = ("BatchMode=yes", "ControlMaster=yes", f"ControlPath={socket}", "ControlPersist=no")
    words = ["ssh", "-T", *(w for option in own for w in ("-o", option)), *options.words()]
    words += [word for option in _DEFAULTS for word in ("-o", option)]
    # `cat` ends when our end of its stdin closes, also when this process is killed.
    return subprocess.Popen(
        [*words, "--", host, "cat >/dev/null"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=log,
        env={**os.environ, "LC_ALL": "C"},
        start_new_session=True,
    )


def _wait_until_connected(
    host: str, master: subprocess.Popen[bytes], socket: Path, said: Path
) -> None:
    deadline = time.monotonic() + CONNECT_SEC
    while time.monotonic() < deadline:
        if socket.exists():
            return
        if master.poll() is not None:
            raise fault(host, said.read_text("utf-8", "replace"))
        time.sleep(0.01)
    raise fault(host, f"timed out after {CONNECT_SEC:.0f} s")
