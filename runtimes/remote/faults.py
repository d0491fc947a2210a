"""What OpenSSH says when it fails, as one clear error with its mend.

    raise fault("orin", stderr_text)

ssh tells its reasons on stderr only (its own exit code is always 255), in English whatever the
locale; what a name lookup says follows LC_ALL, which `runtimes.remote.ssh` sets.
"""

from __future__ import annotations

import re

from common.errors import UserError


class DeviceError(UserError):
    """A fault of a device or of the way there. `place` is the step that failed: connect, check,
    copy, run."""

    def __init__(self, problem: str, mend: str = "", *, place: str = "connect") -> None:
        super().__init__(problem, mend)
        self.place = place


class DeviceBusy(DeviceError):
    """Somebody else's test runs there at this moment."""


# Words of ssh → what they mean, what to do. The first that is found counts.
_FAULTS: tuple[tuple[str, str, str], ...] = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the host key of {host} is not the one that was known: another machine, or a new system",
        "make sure that it is the right device, then: ssh-keygen -R NAME (the name or address in "
        "your known_hosts), and connect once with: ssh {host}",
    ),
    (
        r"Host key verification failed|host key is known for",
        "the host key of {host} is not known yet",
        "connect once by hand, compare the fingerprint, answer yes: ssh {host}",
    ),
    (
        r"Could not resolve hostname|Name or service not known|nodename nor servname",
        "no machine is called '{host}': the name cannot be resolved",
        "check the spelling and your ~/.ssh/config, or use the device's address",
    ),
    (
        r"Permission denied \(|Too many authentication failures|No more authentication methods",
        "{host} refused your key",
        "put your public key there: ssh-copy-id {host} (a key with a passphrase: ssh-add first; "
        "passwords are not asked for)",
    ),
    (
        r"Connection refused|timed out|No route to host|Network is unreachable|Host is down",
        "{host} cannot be reached: {line}",
        "is it switched on, on this network, and does sshd run there? try: ssh {host}",
    ),
    (
        r"[Bb]ad configuration option|bad number|[Mm]issing argument|Unsupported option|"
        r"command-line line|Can't open user config|[Ii]nvalid (quotes|argument)|garbage at end",
        "ssh does not take these options: {line}",
        "see `man ssh_config`; --ssh-option takes NAME=VALUE, such as Port=2222",
    ),
    (
        r"identity file .* not accessible|UNPROTECTED PRIVATE KEY|bad permissions",
        "ssh cannot use the key: {line}",
        "check IdentityFile and its permissions (chmod 600)",
    ),
)
_NOISE = re.compile(
    r"^(Warning: Permanently added|debug\d|\*\*|@+|\s*$|mux_client|Shared connection)"
)


def fault(host: str, said: str, *, place: str = "connect") -> DeviceError:
    """The error for what ssh `said` on stderr about `host`."""
    line = last_line(said)
    for words, problem, mend in _FAULTS:
        if found := re.search(words, said):
            told = next((part for part in said.splitlines() if found[0] in part), line)
            filled = {"host": host, "line": told.strip()}
            return DeviceError(problem.format(**filled), mend.format(**filled), place=place)
    return DeviceError(
        f"the connection to {host} failed: {line}",
        f"see what happens with: ssh {host}",
        place=place,
    )


def lost(host: str, said: str, doing: str, *, place: str) -> DeviceError:
    """The error for a connection that ended in the middle of something."""
    line = last_line(said, nothing="")
    return DeviceError(
        f"the connection to {host} was lost while {doing}" + (f": {line}" if line else ""),
        "is the device still running (power, memory, heat)? then run the same command again; "
        "what was copied stays there",
        place=place,
    )


def last_line(said: str, nothing: str = "ssh said nothing") -> str:
    """The last line of stderr that is no noise."""
    lines = [line.strip() for line in said.splitlines() if not _NOISE.match(line)]
    return lines[-1] if lines else nothing
