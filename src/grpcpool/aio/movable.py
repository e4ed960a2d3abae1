"""The call objects of unary RPCs that may go on after they have failed.

An aio call is given out before anybody knows how it fares. A call that can do more than grpc's would have to stand in
front of one of grpc's, and be paid for by each RPC. So the call stays grpc's own, but for its class, which is derived
from grpc's: if its RPC goes on as another call, it speaks for that one. See `rescue` for when that happens.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Generator
from typing import Any

import grpc

from ..failover import LOOK_EVERY, LOOKS
from ..outcome import OK
from .interceptors import raised
from .rescue import MOVED, SENT, is_early, move

__all__ = ["MOVABLE"]


class _Movable(dict[type[Any], "type[Any] | None"]):
    """What calls of a class become so that they can be moved; None: they stay what they are."""

    def __missing__(self, kind: type[Any]) -> type[Any] | None:
        # grpc's own unary calls only; an interceptor may answer with anything.
        ours = issubclass(kind, grpc.aio.UnaryUnaryCall) and kind.__module__.startswith("grpc.aio")
        return self.setdefault(kind, _derive(kind) if ours else None)


def _derive(kind: type[Any]) -> type[Any] | None:
    # One base only, and no slots: else it could not be put in the place of that base.
    body = {
        "__slots__": (),
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
        "__await__": _awaiting(kind),
        "cancel": _cancelling(kind),
        "add_done_callback": _calling_back(kind),
        "wait_for_connection": _connecting(kind),
        "initial_metadata": _telling(kind, "initial_metadata", ends=False),
        **{name: _telling(kind, name) for name in ("code", "details", "trailing_metadata", "debug_error_string")},
        **{name: _saying(kind, name) for name in ("cancelled", "done", "__repr__", "__str__")},
        # For the pool itself, which asks for the end of this call and no other, and may know without anybody having
        # been told.
        "_grpcpool_code": kind.code,
        "_grpcpool_details": kind.details,
    }
    derived = type(kind.__name__, (kind,), body)
    # Else Python would not let one take the place of the other.
    alike = derived.__basicsize__ == kind.__basicsize__ and derived.__dictoffset__ == kind.__dictoffset__
    return derived if alike else None


def _awaiting(kind: type[Any]) -> Callable[[Any], Generator[Any, Any, Any]]:
    awaited = kind.__await__

    def __await__(self: Any) -> Generator[Any, Any, Any]:  # noqa: N807
        # On the way of every RPC; so nothing is looked at before it has failed.
        try:
            return (yield from awaited(self))
        except grpc.aio.AioRpcError as error:
            fields: dict[str, Any] = self.__dict__
            if MOVED not in fields:
                if raised(self):
                    raise
                for _ in range(LOOKS):
                    if not is_early(self, error):
                        break
                    yield from asyncio.sleep(LOOK_EVERY).__await__()
            # Two tasks may await the same call; it is moved once.
            moved = fields.get(MOVED) or move(self, error)
            if moved is None:
                raise
        return (yield from moved.__await__())

    return __await__


def _cancelling(kind: type[Any]) -> Callable[[Any], bool]:
    def cancel(self: Any) -> bool:
        moved = self.__dict__.get(MOVED)
        if moved is not None:
            return bool(moved.cancel())
        # It may have failed already, and be about to be moved.
        self.__dict__.pop(SENT, None)
        return bool(kind.cancel(self))

    return cancel


def _calling_back(kind: type[Any]) -> Callable[[Any, Callable[[Any], object]], None]:
    def add_done_callback(self: Any, callback: Callable[[Any], object]) -> None:
        fields: dict[str, Any] = self.__dict__

        def call_back(_: Any) -> None:
            if MOVED in fields:
                fields[MOVED].add_done_callback(lambda _: callback(self))
            else:
                callback(self)

        # This will be told how it ended: which must not change after that.
        fields.pop(SENT, None)
        kind.add_done_callback(self, call_back)

    return add_done_callback


def _connecting(kind: type[Any]) -> Callable[[Any], Any]:
    async def wait_for_connection(self: Any) -> None:
        try:
            await kind.wait_for_connection(self)
        except grpc.aio.AioRpcError:
            if MOVED not in self.__dict__:
                raise
        if MOVED in self.__dict__:
            await (await _ended(self.__dict__[MOVED])).wait_for_connection()

    return wait_for_connection


def _telling(kind: type[Any], name: str, *, ends: bool = True) -> Callable[[Any], Any]:
    asked = getattr(kind, name)

    @functools.wraps(asked)
    async def tell(self: Any) -> Any:
        answer = await asked(self)
        fields: dict[str, Any] = self.__dict__
        if MOVED in fields:
            return await getattr(await _ended(fields[MOVED]), name)()
        # As for callbacks.
        if ends and SENT in fields and await kind.code(self) is not OK:
            fields.pop(SENT, None)
        return answer

    return tell


async def _ended(call: Any) -> Any:
    """Return the call when it has ended. Whoever asks it before that, and is cancelled, would cancel it."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(_: Any) -> None:
        if not over.done():
            over.set_result(None)

    call.add_done_callback(ended)
    await over
    return call


def _saying(kind: type[Any], name: str) -> Callable[[Any], Any]:
    asked = getattr(kind, name)

    @functools.wraps(asked)
    def say(self: Any) -> Any:
        moved = self.__dict__.get(MOVED)
        return asked(self) if moved is None else getattr(moved, name)()

    return say


MOVABLE = _Movable()
