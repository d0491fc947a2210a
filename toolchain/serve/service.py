"""What a server offers: paths, how their bodies are read, what is answered.

A service is asked by one request at a time (`answer`); `read` may be called by several.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from toolchain.serve.errors import RequestError


@dataclass(frozen=True)
class Events:
    """A reply that comes piece by piece."""

    items: Iterator[dict[str, Any]]


Reply = dict[str, Any] | Events


class Service(Protocol):
    """One loaded model. `facts` is what `/health` says of it."""

    name: str
    facts: Mapping[str, Any]
    paths: tuple[str, ...]

    def read(self, path: str, body: Any) -> Any: ...

    def answer(self, path: str, asked: Any, halted: Callable[[], bool]) -> Reply:
        """The reply to what `read` made of a body; `halted` says that nobody waits for it."""
        ...


def model_id(name: str) -> str:
    """A model's name as requests write it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "model"


def model_list(service: Service) -> dict[str, Any]:
    """GET /v1/models."""
    entry = {"id": service.name, "object": "model", "created": 0, "owned_by": "edgeforge"}
    return {"object": "list", "data": [entry]}


def require_model(service: Service, wanted: str | None) -> None:
    """Refuse another model's name; none at all is this one."""
    if wanted is not None and wanted != service.name:
        raise RequestError(
            f"there is no model '{wanted}' here; this is {service.name}",
            status=HTTPStatus.NOT_FOUND,
            param="model",
            code="model_not_found",
        )


def now() -> int:
    """Seconds since 1970, as `created` wants them."""
    return int(time.time())
