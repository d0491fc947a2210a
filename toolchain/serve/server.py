"""Serve a model until a signal comes; nothing is left then."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

from common.errors import UserError
from toolchain.serve.http import Server, is_loopback
from toolchain.serve.service import Service

_END_SEC = 30.0


def address_of(host: str, port: int) -> tuple[socket.AddressFamily, str, int]:
    """What to listen on; checked before a model is loaded. Raises `UserError` for a host that is
    not this machine and a port that is taken."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UserError(
            f"host {host} is not known", "--host 127.0.0.1 serves this machine"
        ) from None
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(place)
        except OSError as error:
            raise _cannot_listen(host, port, error) from None
    return family, str(place[0]), port


def serve(
    service: Service, family: socket.AddressFamily, host: str, port: int, say: Callable[[str], None]
) -> None:
    """Answer until Ctrl-C or SIGTERM; then end what is being answered and return."""
    try:
        server = Server((host, port), family, service)
    except OSError as error:
        raise _cannot_listen(host, port, error) from None

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        server.turns.closing.set()
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    with server:
        say(f"serving {service.name} at http://{shown}:{server.server_address[1]}/v1 (Ctrl-C ends)")
        server.serve_forever(poll_interval=0.1)
        server.turns.close(_END_SEC)


def warning(host: str) -> str | None:
    """What to say before listening on more than loopback."""
    if is_loopback(host):
        return None
    return (
        f"warning: {host} can be reached from other machines, and this server asks for no password"
    )


def _cannot_listen(host: str, port: int, error: OSError) -> UserError:
    return UserError(
        f"cannot listen on {host} port {port}: {error.strerror}",
        "choose another with --port (0 takes any that is free)",
    )
