"""A unary RPC that no server has looked at goes on: at another member, or on the slow lane.

There are two ways. An RPC that failed where another member may do better is moved when its call is awaited, for it may
take a moment to tell whether it is to be sent again, and who awaits does not mind. An RPC that a server refused,
because it has too many, goes to the slow lane at once when it ends: no caller, however he looks at it, is to see that.
"""

from __future__ import annotations

from contextvars import Context
from typing import TYPE_CHECKING, Any

import grpc

from ..failover import can_repeat
from ..inflight import InFlight
from ..outcome import UNAVAILABLE, left, refused
from .calls import code_of, details_of, let_go_of_call

if TYPE_CHECKING:
    from .method import Method

__all__ = ["MOVED", "SENT", "Sent", "ended_or_refused", "is_early", "move"]

# What a call was made of: all that it takes to make it again. A bare tuple, for one is made for every RPC: its flight,
# the request, timeout, metadata, credentials, wait_for_ready, the compression, and where its affinity key is found, if
# the strategy asks for one.
Sent = tuple[InFlight, Any, "float | None", Any, "grpc.CallCredentials | None", "bool | None", Any, "Context | None"]
# Attributes of a call: its `Sent`, for as long as it may be moved, and the call that its RPC has gone on as.
SENT, MOVED = "_grpcpool_sent", "_grpcpool_moved"


def ended_or_refused(sent: Sent) -> None:
    """Take down how a call ended, as `InFlight.ended` does; but if a server refused its RPC, have that go on.

    Called in the call's own task, so in the context that the RPC was begun in.
    """
    flight = sent[0]
    call = flight()
    runs = call is not None and flight in flight.member.leases
    if runs and code_of(call) is UNAVAILABLE and refused(UNAVAILABLE, details_of(call)):
        method: Method = flight.method  # type: ignore[assignment]
        _go_on(call, flight, method.resume(sent))
    else:
        flight.ended()


def is_early(call: Any, error: grpc.aio.AioRpcError) -> bool:
    """Say whether it is too early to tell whether an RPC that failed may be moved."""
    sent: Sent | None = call.__dict__.get(SENT)
    if sent is None:
        return False
    flight = sent[0]
    method: Method = flight.method  # type: ignore[assignment]
    return method.failover.is_early(error.code(), error.details(), flight.member)


def move(call: Any, error: grpc.aio.AioRpcError) -> Any:
    """Send an RPC that failed to another member, and return its call there; None if it ends as it failed."""
    sent: Sent | None = call.__dict__.pop(SENT, None)
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
    moved = method.move(course.tried, sent, timeout)
    if moved is None:
        # Every other member is full.
        return None
    failover.tell(method.name, 2, course.kind, error.code())
    _go_on(call, flight, moved)
    # Or it would hold the first member's connection, closed or not, for as long as its RPC takes.
    call.__dict__.update(moved.__dict__)
    return moved


def _go_on(call: Any, flight: InFlight, moved: Any) -> None:
    # The first member's channel may be closed long before the RPC is over.
    let_go_of_call(flight.member.channel, call)
    fields: dict[str, Any] = call.__dict__
    fields.pop(SENT, None)
    fields[MOVED] = moved
