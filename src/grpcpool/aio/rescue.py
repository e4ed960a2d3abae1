"""Moving a unary RPC that never reached a server to another member, behind the call object that its caller has.

An aio call is given out before anybody knows how it fares. A call that can do more than grpc's would have to stand in
front of one of grpc's, and be paid for by each RPC. So the call stays grpc's own, but for what happens when it is
awaited: if it has failed then, and can be moved, it goes on as the call that it is moved to.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any

import grpc

from ..failover import LOOK_EVERY, LOOKS, can_repeat
from ..inflight import InFlight
from ..outcome import UNAVAILABLE, left
from .calls import let_go_of_call
from .interceptors import raised

if TYPE_CHECKING:
    from .method import Method

__all__ = ["MOVABLE", "Sent"]

# What a call was made of: all that it takes to make it again. A bare tuple, for one is made for every RPC: its flight,
# the request, timeout, metadata, credentials, wait_for_ready, the compression, and where its affinity key is found, if
# the strategy asks for one.
Sent = tuple[InFlight, Any, "float | None", Any, "grpc.CallCredentials | None", "bool | None", Any, "Context | None"]


def _is_early(fields: dict[str, Any], error: grpc.aio.AioRpcError) -> bool:
    sent: Sent | None = fields.get("_grpcpool_sent")
    if sent is None:
        return False
    flight = sent[0]
    method: Method = flight.method  # type: ignore[assignment]
    return method.failover.is_early(error.code(), error.details(), flight.member)


def _move(fields: dict[str, Any], error: grpc.aio.AioRpcError) -> Any:
    """Send an RPC that failed to another member, and have its call speak for the new one; return that, or None."""
    sent: Sent | None = fields.pop("_grpcpool_sent", None)
    if sent is None or not can_repeat(sent[3]):
        return None
    flight, timeout = sent[0], sent[2]
    method: Method = flight.method  # type: ignore[assignment]
    failover = method.failover
    if error.code() is UNAVAILABLE and not failover.has_others((flight.member,)):
        # While everything is down each RPC comes by here, and there is nowhere to go.
        return None
    course = failover.course(method.plan, flight.member)
    end = failover.end(error.code(), error.details(), error.trailing_metadata(), flight.member)
    if end.lost:
        method.suspect(flight.member)
    timeout = left(timeout, flight.started)
    if course.next(end, others=failover.has_others(course.tried), left=timeout) is None:
        return None
    call = method.move(course.tried, sent, timeout)
    if call is None:
        # Every other member is full.
        return None
    failover.tell(method.name, 2, course.kind, error.code())
    # Whoever asks the first call for its status, or cancels it, means the RPC.
    let_go_of_call(flight.member.channel, flight())
    fields.update(call.__dict__)
    fields["_grpcpool_moved"] = call
    return call


class _Movable(dict[type[Any], "type[Any] | None"]):
    """What calls of a class become so that they can be moved; None: they stay what they are."""

    def __missing__(self, kind: type[Any]) -> type[Any] | None:
        # grpc's own unary calls only; an interceptor may answer with anything.
        ours = issubclass(kind, grpc.aio.UnaryUnaryCall) and kind.__module__.startswith("grpc.aio")
        return self.setdefault(kind, _derive(kind) if ours else None)


def _derive(kind: type[Any]) -> type[Any] | None:
    awaited = kind.__await__

    def __await__(self: Any) -> Generator[Any, Any, Any]:  # noqa: N807
        # On the way of every RPC; so nothing is looked at before it has failed.
        try:
            return (yield from awaited(self))
        except grpc.aio.AioRpcError as error:
            if raised(self):
                raise
            fields: dict[str, Any] = self.__dict__
            # Two tasks may await the same call; it is moved once.
            for _ in range(LOOKS):
                if not _is_early(fields, error):
                    break
                yield from asyncio.sleep(LOOK_EVERY).__await__()
            moved = fields.get("_grpcpool_moved") or _move(fields, error)
            if moved is None:
                raise
        return (yield from moved.__await__())

    def cancel(self: Any) -> bool:
        # It may have failed already, and be about to be moved.
        self.__dict__.pop("_grpcpool_sent", None)
        return bool(kind.cancel(self))

    def add_done_callback(self: Any, callback: Any) -> None:
        # This will be told how it ended: which must not change after that.
        self.__dict__.pop("_grpcpool_sent", None)
        kind.add_done_callback(self, callback)

    def telling(name: str) -> Any:
        asked = getattr(kind, name)

        @functools.wraps(asked)
        async def tell(self: Any) -> Any:
            answer = await asked(self)
            # As for callbacks.
            if "_grpcpool_sent" in self.__dict__ and await kind.code(self) is not grpc.StatusCode.OK:
                self.__dict__.pop("_grpcpool_sent", None)
            return answer

        return tell

    # One base only, and no slots: else it could not be put in the place of that base.
    body = {
        "__slots__": (),
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
        "__await__": __await__,
        "cancel": cancel,
        "add_done_callback": add_done_callback,
        **{name: telling(name) for name in ("code", "details", "trailing_metadata", "debug_error_string")},
        # For the pool itself, which may know without anybody having been told.
        "_grpcpool_code": kind.code,
    }
    derived = type(kind.__name__, (kind,), body)
    # Else Python would not let one take the place of the other.
    alike = derived.__basicsize__ == kind.__basicsize__ and derived.__dictoffset__ == kind.__dictoffset__
    return derived if alike else None


MOVABLE = _Movable()
