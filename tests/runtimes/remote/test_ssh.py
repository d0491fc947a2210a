"""Connections to a real OpenSSH server, and every way in which they fail."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_sshd import Server, needs_sshd, new_key

from common.errors import UserError
from common.scratch import clear_left_behind
from runtimes.ollama_server import free_port
from runtimes.remote.faults import DeviceError, fault
from runtimes.remote.ssh import Connection, SshOptions, check_host, connect

pytestmark = needs_sshd


def refusal(server: Server, *options: str, host: str = "device") -> DeviceError:
    with (
        pytest.raises(DeviceError) as caught,
        connect(host, SshOptions(server.config, options)),
    ):
        pass
    assert caught.value.place == "connect" and caught.value.mend
    return caught.value


def test_commands_share_one_connection(server: Server, device: Connection) -> None:
    before = server.log.count("Accepted publickey")
    for word in ("one", "two"):
        done = device.run(f"echo {word}", timeout_sec=10, doing="asking", place="check")
        assert (done.returncode, done.stdout.decode().strip()) == (0, word)
    done = device.run("cat; exit 7", stdin=b"in\0out", timeout_sec=10, doing="x", place="check")
    assert (done.returncode, done.stdout) == (7, b"in\0out")
    assert server.log.count("Accepted publickey") == before


def test_an_unknown_name(server: Server) -> None:
    error = refusal(server, host="no-such-machine.invalid")
    assert "no machine is called 'no-such-machine.invalid'" in error.problem


def test_nobody_listens(server: Server) -> None:
    error = refusal(server, f"Port={free_port()}")
    assert "cannot be reached" in error.problem and "refused" in error.problem


def test_a_refused_key(server: Server, tmp_path: Path) -> None:
    stranger = new_key(tmp_path / "stranger")
    # The first value counts, so the config's own key must not come along.
    error = refusal(server, f"IdentityFile={stranger}", "CertificateFile=none", "User=nobody")
    assert "refused your key" in error.problem and "ssh-copy-id" in error.mend


def test_an_unknown_and_a_changed_host_key(server: Server, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text("")
    error = refusal(server, f"UserKnownHostsFile={known}")
    assert "not known yet" in error.problem and "ssh device" in error.mend
    kind, other = new_key(tmp_path / "other").with_suffix(".pub").read_text().split()[:2]
    known.write_text(f"[127.0.0.1]:{server.port} {kind} {other}\n")
    error = refusal(server, f"UserKnownHostsFile={known}")
    assert "is not the one that was known" in error.problem and "ssh-keygen -R" in error.mend
    assert known.read_text().count("\n") == 1  # nothing was added


def test_an_option_that_ssh_does_not_know(server: Server) -> None:
    assert "does not take these options" in refusal(server, "Prot=22").problem


def test_hosts_that_are_none() -> None:
    for host in ("-oProxyCommand=x", "user@-x", "two words", "", "a;b", "$(x)", "ssh://a"):
        with pytest.raises(UserError, match="is no host"):
            check_host(host)
    with pytest.raises(UserError, match="port") as caught:
        check_host("pi@box:2222")
    assert caught.value.mend == "--host pi@box --ssh-option Port=2222"
    for host in ("user@orin", "orin", "10.0.0.7", "me@fe80::1%eth0", "first.last@box-1.lan"):
        assert check_host(host) == host


def test_words_of_ssh_that_no_rule_knows() -> None:
    assert "it broke" in fault("orin", "debug1: x\nit broke\n").problem


def test_a_lost_connection_is_told(server: Server) -> None:
    with connect("device", SshOptions(server.config)) as device:
        server.kill_sessions()
        with pytest.raises(DeviceError, match="was lost while asking"):
            device.run("sleep 30", timeout_sec=10, doing="asking", place="check")


@pytest.fixture
def place() -> Iterator[str]:
    """A place for temporary files whose name is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as name:
        yield name


def test_nothing_is_left_when_this_process_is_killed(server: Server, place: str) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from runtimes.remote.ssh import SshOptions, connect\n"
        f"with connect('device', SshOptions(Path({str(server.config)!r}))):\n"
        "    print('open', flush=True)\n    time.sleep(60)\n"
    )
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "TMPDIR": place},
    )
    assert process.stdout is not None and process.stdout.readline() == b"open\n"
    assert server.sessions() and len(list(Path(place).iterdir())) == 1
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while server.sessions() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not server.sessions()
    clear_left_behind(place)  # as the next connection does
    assert not list(Path(place).iterdir())
