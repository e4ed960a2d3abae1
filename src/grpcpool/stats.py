"""What a pool knows about itself, as frozen snapshots."""

from __future__ import annotations

from dataclasses import dataclass

from .events import PoolHealth

__all__ = ["Decision", "MemberStats", "PoolStats", "PoolStatus", "health_of"]


def health_of(current: int, expected: int) -> PoolHealth:
    """Name the health of a pool with `current` of `expected` members connected."""
    if current == 0:
        return "down"
    return "healthy" if current >= expected else "degraded"


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The pool in one line.

    Attributes:
        name: the pool's name.
        expected_size: how many members it should have.
        current_size: how many of them have a working connection, and are not ejected.
        status: ``"healthy"`` if all are fit like that, ``"degraded"`` if some are, ``"down"`` if none is.
    """

    name: str
    expected_size: int
    current_size: int
    status: PoolHealth


@dataclass(frozen=True, slots=True)
class MemberStats:
    """One member at one moment.

    Attributes:
        id: unique within the pool for its whole life.
        endpoint: the gRPC target that it connects to.
        state: ``"connecting"``, ``"priming"``, ``"ready"``, ``"down"`` or ``"draining"``; where it is connected and not
            picked, ``"ejected"``, ``"probing"`` (one RPC is to show if it is fit again), ``"checking"`` (its server is
            asked whether it serves) or ``"not serving"`` (it says no).
        in_flight: RPCs running on it now.
        calls: RPCs started on it.
        failures: RPCs that ended with a status other than OK, cancellation by the caller not counted.
        age: seconds since its channel was made.
        latency: moving average of its unary RPCs in seconds, or None before the first has ended.
        last_error: the last connection error, or None.
        ejected_for: seconds that its ejection is to last yet; None if it is not ejected.
    """

    id: int
    endpoint: str
    state: str
    in_flight: int
    calls: int
    failures: int
    age: float
    latency: float | None
    last_error: str | None
    ejected_for: float | None


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing that the pool did, and why.

    Attributes:
        ago: seconds before the snapshot.
        what: the name of the event that told of it; see `grpcpool.events`.
        reason: why, in words.
    """

    ago: float
    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Totals since the pool was made, and its members.

    Attributes:
        name: the pool's name.
        size: how many members it should have.
        min_size, max_size: between what the load may move its size; equal if it may not.
        in_flight: RPCs running now, those on draining members included.
        waiting: RPCs that wait for room now; see ``max_concurrent_streams``.
        waited: RPCs that had to wait.
        waited_seconds: how long those waited in sum, that wait no longer.
        refused: RPCs that were turned away, because too many waited or because they had waited too long.
        resent: how often RPCs were sent again that a server had refused to look at: it had too many.
        retries: how often RPCs were sent again, to another member mostly, because they had failed.
        hedges: second copies of RPCs that took too long; see ``hedge_after``.
        retries_refused: how often neither happened, because too large a part of all RPCs was sent twice already.
        calls: RPCs started, each attempt counted.
        failures: RPCs that ended with a status other than OK, cancellation by the caller not counted.
        connects: connections that were established.
        disconnects: connections that ended, for whatever reason.
        connect_failures: attempts that failed.
        grown: members added by resizes, those that the load asked for included.
        shrunk: members taken out by resizes.
        recycled: members replaced because of their age.
        drained: members that left and are closed.
        ejections: how often a member that was connected was taken out of the picks because it did badly.
        listener_errors: exceptions that listeners raised.
        maintenance_errors: exceptions in the pool's own background work.
        members: one entry for each member, draining ones included.
        decisions: the last hundred things that the pool did, each with its reason; oldest first.
    """

    name: str
    size: int
    min_size: int
    max_size: int
    in_flight: int
    waiting: int
    waited: int
    waited_seconds: float
    refused: int
    resent: int
    retries: int
    hedges: int
    retries_refused: int
    calls: int
    failures: int
    connects: int
    disconnects: int
    connect_failures: int
    grown: int
    shrunk: int
    recycled: int
    drained: int
    ejections: int
    listener_errors: int
    maintenance_errors: int
    members: tuple[MemberStats, ...]
    decisions: tuple[Decision, ...]
