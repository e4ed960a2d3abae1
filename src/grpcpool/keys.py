"""Affinity keys: which RPCs belong together.

The key of an RPC is a context variable, so that code far away from the stub can say what its calls are about. Nothing
in here knows of pools: a pool whose strategy routes by key reads `current_key` when it picks.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Key", "affinity", "current_key"]

Key = str | bytes
Function = TypeVar("Function", bound=Callable[..., Any])
Outer = tuple["Key | None", "Outer | None"]

_KEY: ContextVar[Key | None] = ContextVar("grpcpool.affinity", default=None)
# What was in force outside each of the blocks that are open in this context, innermost first. Not kept on the objects:
# then one object can be entered by many threads and tasks, and by one of them twice.
_OUTER: ContextVar[Outer | None] = ContextVar("grpcpool.affinity.outer", default=None)

current_key: Callable[[], Key | None] = _KEY.get
"""Return the key that is in force here, or None."""


class affinity:  # noqa: N801  # used as a function is
    """Gives the RPCs that are started in a block, or in a function, an affinity key.

        with grpcpool.affinity("user-42"):
            stub.Get(request)

    A pool with a strategy that routes by key (``consistent_hash``) sends RPCs with equal keys to the same member as
    long as that is connected and not overloaded; other strategies take no notice. What counts is where an RPC is
    *started*: its whole life, a stream's too, belongs to the member that was picked then. Of nested blocks the
    innermost counts, and at its end the outer one again.

    The key follows the program wherever Python's context variables go: into asyncio tasks that are created within the
    block, `asyncio.to_thread`, callbacks of the loop. It does **not** go into a `threading.Thread`, an executor's
    `submit` or `map`, or `loop.run_in_executor` by itself: a new thread begins without any, and the threads of an
    executor belong to nobody. Hand the key over, with `bind`:

        executor.submit(grpcpool.affinity.bind(work), item)     # the key in force here, at this moment
        Thread(target=grpcpool.affinity("user-42")(work))       # this one

    In a generator the block ends when the generator goes on to its end, not where it yields, as for all context
    variables: whoever consumes it runs under the key meanwhile. Start the RPCs and leave the block before yielding.

    Objects can be kept, and used any number of times, in any number of threads and tasks at once.

    Arguments:
        key: text or bytes, not empty. Text is the same key as its UTF-8.

    Raises:
        TypeError: `key` is something else.
        ValueError: `key` is empty, or text that UTF-8 cannot express.
    """

    __slots__ = ("_key",)

    def __init__(self, key: Key) -> None:
        if not isinstance(key, (str, bytes)):
            raise TypeError(f"an affinity key is text or bytes, not an object of type {type(key).__name__}")
        if not key:
            raise ValueError("an affinity key must not be empty")
        if isinstance(key, str):
            # Said here and not by the pick, which must not raise. Without the key: it may be nobody's business.
            try:
                key.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"an affinity key must be text that UTF-8 can express: {error.reason}") from None
        self._key: Key | None = key

    def __enter__(self) -> None:
        _OUTER.set((_KEY.get(), _OUTER.get()))
        _KEY.set(self._key)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Nothing where a block ends in another context than it began in, as the clean-up of a test's fixture may.
        key, outer = _OUTER.get() or (None, None)
        _KEY.set(key)
        _OUTER.set(outer)

    def __call__(self, function: Function) -> Function:
        """Return `function`, a plain one or a coroutine function, such that all of it runs under the key.

        Raises:
            TypeError: it is a generator function. Those give control away while they are under way; see above.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError("an affinity key cannot be bound to a generator function; use a with block inside of it")

        @functools.wraps(function)
        def bound(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        @functools.wraps(function)
        async def bound_coroutine(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await function(*args, **kwargs)

        # Calling a coroutine function does nothing yet; it is its whole run that has to be under the key.
        return bound_coroutine if inspect.iscoroutinefunction(function) else bound  # type: ignore[return-value]

    @classmethod
    def bind(cls, function: Function) -> Function:
        """Return `function` such that it runs, in whatever thread or task, under the key that is in force here and now.

        If none is, it runs under none. Unlike ``contextvars.copy_context().run``, the result may run in several threads
        at once, and nothing but the key goes along.
        """
        here = cls.__new__(cls)
        here._key = _KEY.get()
        return here(function)

    def __repr__(self) -> str:
        # A key may identify a person.
        return "<grpcpool.affinity>"
