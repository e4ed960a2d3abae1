"""What a pool knows about itself, as frozen snapshots."""

from __future__ import annotations

from dataclasses import dataclass

from .events import PoolHealth

__all__ = ["MemberStats", "PoolStats", "PoolStatus", "health_of"]


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
        current_size: how many of them have a working connection.
        status: ``"healthy"`` if all have, ``"degraded"`` if some have, ``"down"`` if none has.
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
        state: ``"connecting"``, ``"ready"``, ``"down"`` or ``"draining"``.
        in_flight: RPCs running on it now.
        calls: RPCs started on it.
        failures: RPCs that ended with a status other than OK, cancellation by the caller not counted.
        age: seconds since its channel was made.
        latency: moving average of its unary RPCs in seconds, or None before the first has ended.
        last_error: the last connection error, or None.
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


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Totals since the pool was made, and its members.

    Attributes:
        name: the pool's name.
        size: how many members it should have.
        in_flight: RPCs running now, those on draining members included.
        calls: RPCs started.
        failures: RPCs that ended with a status other than OK, cancellation by the caller not counted.
        connects: connections that were established.
        disconnects: connections that ended, for whatever reason.
        connect_failures: attempts that failed.
        listener_errors: exceptions that listeners raised.
        maintenance_errors: exceptions in the pool's own background work.
        members: one entry for each member, draining ones included.
    """

    name: str
    size: int
    in_flight: int
    calls: int
    failures: int
    connects: int
    disconnects: int
    connect_failures: int
    listener_errors: int
    maintenance_errors: int
    members: tuple[MemberStats, ...]
