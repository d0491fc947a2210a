"""A real OpenSSH server on loopback, run by this user on a free port, with keys of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtimes.ollama_server import free_port

_PLACES = ("/usr/sbin", "/usr/local/sbin", "/sbin")


def find_sshd() -> str | None:
    """sshd insists on its absolute path."""
    return shutil.which("sshd", path=os.pathsep.join((os.environ.get("PATH", ""), *_PLACES)))


needs_sshd = pytest.mark.skipif(
    find_sshd() is None or shutil.which("ssh") is None,
    reason="no OpenSSH server and client on this machine (apt install openssh-server)",
)


@dataclass
class Server:
    """A device on loopback. `home` is where its login lands, `config` what `ssh -F` takes."""

    folder: Path
    port: int
    home: Path
    config: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.folder / "sshd.log").read_text("utf-8", "replace")

    def sessions(self) -> list[int]:
        """Processes that serve connections."""
        return children(self.process.pid)

    def kill_sessions(self) -> None:
        """As if the device lost power: every connection's server processes die at once."""
        for session in self.sessions():
            for pid in (session, *(c for c in children(session) if _is_sshd(c))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def _is_sshd(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().startswith("sshd")
    return False


def new_key(path: Path) -> Path:
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    return path


@contextlib.contextmanager
def loopback_sshd(folder: Path, *, path: str = "", more: str = "") -> Iterator[Server]:
    """Serve while the block lasts. Every login runs with HOME in `folder`; `path` goes before the
    PATH of the device."""
    sshd = find_sshd()
    assert sshd is not None
    folder.mkdir(parents=True, exist_ok=True)
    home, port = folder / "home", free_port()
    home.mkdir(exist_ok=True)
    host_key, user_key = new_key(folder / "host_key"), new_key(folder / "user_key")
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\n"
        f"AuthorizedKeysFile {folder / 'authorized_keys'}\nPidFile {folder / 'pid'}\n"
        "StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"UsePAM no\nPermitRootLogin yes\nLogLevel VERBOSE\n{more}"
        f'SetEnv HOME="{home}" PATH="{path}{os.pathsep if path else ""}{os.environ["PATH"]}"\n'
    )
    key = host_key.with_suffix(".pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key[0]} {key[1]}\n")
    (folder / "ssh_config").write_text(
        f"Host device\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {user_key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {folder / 'known_hosts'}\n  GlobalKnownHostsFile /dev/null\n"
    )
    command = [sshd, "-D", "-f", str(folder / "sshd_config"), "-E", str(folder / "sshd.log")]
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # its privilege separation wants it
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    server = Server(folder, port, home, folder / "ssh_config", process)
    try:
        _wait_until_it_listens(server)
        yield server
    finally:
        server.kill_sessions()
        process.terminate()
        process.wait(timeout=10)


def _wait_until_it_listens(server: Server) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        log = server.folder / "sshd.log"
        if log.is_file() and "Server listening" in server.log:
            return
        assert server.process.poll() is None, server.log
        time.sleep(0.02)
    raise AssertionError(f"sshd does not listen: {server.log}")
