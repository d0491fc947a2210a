"""What has a `close()` as a context manager: `with thing as opened: …` closes it at the end."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, TypeVar


class _Closes(Protocol):
    def close(self) -> None: ...


Self = TypeVar("Self", bound=_Closes)


class Closing:
    """Mixin for classes with a `close` that may be called twice."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self: _Closes,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
