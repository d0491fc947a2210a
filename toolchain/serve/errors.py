"""What is wrong with a request, in the form that OpenAI's clients read."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any


class RequestError(Exception):
    """Answered with a status and OpenAI's error object."""

    def __init__(
        self,
        message: str,
        *,
        status: HTTPStatus = HTTPStatus.BAD_REQUEST,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def as_json(self) -> dict[str, Any]:
        """The body of the reply."""
        client = self.status < HTTPStatus.INTERNAL_SERVER_ERROR
        kind = "invalid_request_error" if client else "server_error"
        fault = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": fault}


class Gone(Exception):
    """The client is not there any more; nobody is to be answered."""


def stopping() -> RequestError:
    """The server is about to end."""
    return RequestError("the server is stopping", status=HTTPStatus.SERVICE_UNAVAILABLE)
