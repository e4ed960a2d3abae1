"""What a pool does on its loop besides RPCs, on a loop that may end before it gets to it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

__all__ = ["Late"]

T = TypeVar("T")


class Late(Coroutine[Any, Any, T]):
    """The coroutine of a task, made only when the task takes its first step.

    A loop that ends with a pool still open may have been given a task that it never gets to. Of a coroutine that never
    began, the interpreter says that it was never awaited, which helps nobody whose program is over.

    Arguments:
        make: returns the coroutine.
    """

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._make = make
        # As tasks are shown.
        self.__qualname__ = getattr(make, "__qualname__", "Late")
        self._made: Coroutine[Any, Any, T] | None = None

    def _begun(self) -> Coroutine[Any, Any, T]:
        if self._made is None:
            self._made = self._make()
        return self._made

    @property
    def cr_frame(self) -> Any:
        """Where it stands, for whoever looks at a task's stack: debuggers, and grpc when it closes a channel."""
        return getattr(self._made, "cr_frame", None)

    def send(self, value: Any) -> Any:
        """Take a step."""
        return self._begun().send(value)

    def throw(self, *error: Any) -> Any:
        """Take a step that begins with an exception."""
        try:
            return self._begun().throw(*error)
        finally:
            # Its traceback leads here: what the coroutine held would else stay until a garbage collection.
            del error

    def close(self) -> None:
        """Give up, if it has begun."""
        if self._made is not None:
            self._made.close()

    def __await__(self) -> Generator[Any, Any, T]:
        """Let it be awaited like any other."""
        return self._begun().__await__()
