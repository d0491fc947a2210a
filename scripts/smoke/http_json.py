"""JSON over HTTP to a server on this machine."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from .bundle import CannotRun

REQUEST_TIMEOUT_SEC = 1800.0  # a slow device with a large model is still no dead one


class Refused(CannotRun):
    """The server answered, with an error."""


def call(
    method: str,
    url: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    timeout_sec: float = REQUEST_TIMEOUT_SEC,
) -> dict[str, Any]:
    """The reply to a request; `body` is JSON unless it is an open file or bytes."""
    data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    sent = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data, sent, method=method)
    # A proxy of the environment is not for a server on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_sec) as reply:
            text = reply.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        raise Refused(error_text(error)) from None
    except (OSError, ValueError) as error:
        raise CannotRun(f"nothing answers at {url} ({getattr(error, 'reason', error)})") from None
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise CannotRun(f"what answers at {url} does not speak JSON")
    if "error" in value:  # Ollama's streams end so, with status 200
        raise Refused(str(value["error"]))
    return value


def error_text(error: urllib.error.HTTPError) -> str:
    """What the server gives as its reason."""
    text = error.read().decode("utf-8", "replace")
    try:
        reason = json.loads(text)["error"]
        return str(reason["message"] if isinstance(reason, dict) else reason)
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code} {text[:200]}".strip()
