"""Everything a pool tells its listeners: frozen records, one class for each kind.

A listener is any callable that takes one event. It runs in the thread (or on the loop) that noticed the fact, outside
every lock, so it must not block; what it raises is counted in ``stats().listener_errors``, logged once, and harmless.
All durations are seconds. No event carries metadata, credentials or message contents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Closed",
    "ConnectFailed",
    "Connected",
    "ConnectionDown",
    "Disconnected",
    "Drained",
    "Ejected",
    "Event",
    "Listener",
    "MaintenanceFailed",
    "MemberEvent",
    "NotServing",
    "Opened",
    "PanicEnded",
    "Panicked",
    "Picked",
    "Pinged",
    "PoolFailing",
    "PoolHealth",
    "PoolRecovered",
    "PrimerFailed",
    "Probing",
    "Readmitted",
    "Rebuilt",
    "ReconnectScheduled",
    "Recycled",
    "Retried",
    "Saturated",
    "ScaledDown",
    "ScaledUp",
    "Scaling",
    "Serving",
    "Spared",
    "StatusReport",
    "StrategyFailed",
]

PoolHealth = Literal["healthy", "degraded", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event carries.

    Attributes:
        pool: the pool's name.
    """

    pool: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberEvent(Event):
    """An event about one member.

    Attributes:
        member: the member's id, unique within the pool for its whole life.
        endpoint: the gRPC target that the member connects to.
    """

    member: int
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Event):
    """The pool opened: its channels exist and connect from now on."""

    size: int
    endpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed(Event):
    """The pool closed; its last event. `open_for` is how long it had been open."""

    open_for: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked(MemberEvent):
    """A member was chosen for an RPC, or by `get_channel`. Sampled: see ``telemetry_sample_rate``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried(Event):
    """An RPC is sent once more. Not sampled, for it is rare: the pool's budget sees to that.

    Attributes:
        method: its name, ``/package.Service/Method``.
        attempt: 2 for the second time, and so on.
        kind: ``"failover"`` if it had reached no server, ``"retry"`` if it may have, ``"hedge"`` if it goes on besides.
        code: the name of the status it had ended with; None if it had not.
    """

    method: str
    attempt: int
    kind: str
    code: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling(Event):
    """How a resize went.

    Attributes:
        duration: from the request to the answer.
        requested: by how many members the pool was to change.
        succeeded: how many of them did.
        failed: how many did not.
        new_size: the pool's size afterwards.
        reason: what asked for it: somebody, or the load.
    """

    duration: float
    requested: int
    succeeded: int
    failed: int
    new_size: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledUp(Scaling):
    """Members were added; those counted as failed did not connect and were let go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledDown(Scaling):
    """Members left the picks; each closes when its last RPC ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport(Event):
    """The periodic heartbeat, every ``telemetry_interval``.

    Attributes:
        expected: the size asked for.
        current: members with a working connection.
        status: ``"healthy"`` if all are connected, ``"degraded"`` if some are, ``"down"`` if none is.
        in_flight: RPCs running now.
        waiting: RPCs that wait for room now.
        waited, waited_seconds: RPCs that had to wait since the pool was made, and for how long in sum.
        refused: RPCs that were turned away since then, at once or after they had waited too long.
    """

    expected: int
    current: int
    status: PoolHealth
    in_flight: int
    waiting: int
    waited: int
    waited_seconds: float
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturated(Event):
    """Every member is full, and RPCs have begun to wait. Told once a second at most.

    Attributes:
        size: the pool's size.
        in_flight: RPCs running now.
        waiting: RPCs that wait.
    """

    size: int
    in_flight: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected(MemberEvent):
    """A member's channel became READY, `duration` after it began to connect."""

    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectFailed(MemberEvent):
    """A connection attempt failed, `duration` after it began; `error` is the reason that grpc gives."""

    duration: float
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionDown(MemberEvent):
    """A member that was connected no longer is, and has left the picks."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected(MemberEvent):
    """A connection ended after it had been up for `uptime`, because of a fault, a ping or a retirement."""

    uptime: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectScheduled(MemberEvent):
    """The next attempt, number `attempt` since the last success, is due in `delay`."""

    delay: float
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt(MemberEvent):
    """A member that could not connect was replaced by a fresh channel (and fresh name resolution).

    Attributes:
        replacement: the id of the member that takes its place.
        attempts: failed attempts in a row so far.
    """

    replacement: int
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycled(MemberEvent):
    """A member became too old, and its replacement has connected; the old one leaves when its last RPC has ended.

    Attributes:
        replacement: the id of the member that has taken its place.
        age: how old it became.
    """

    replacement: int
    age: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained(MemberEvent):
    """A member that had left the picks is closed, `duration` after it left.

    Attributes:
        cancelled: RPCs that were still running and are cancelled: `drain_timeout` or the grace of `close` was over.
        reason: why it left.
    """

    duration: float
    cancelled: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimerFailed(MemberEvent):
    """The primer raised or took too long, for the `attempt`-th time; the member is not picked before it succeeds."""

    error: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinged(MemberEvent):
    """An idle member was pinged by a real round trip.

    Attributes:
        duration: how long the answer took.
        result: ``"alive"``, or ``"dead"``: the member then reconnects.
        detail: what was wrong, if it is dead.
    """

    duration: float
    result: Literal["alive", "dead"]
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ejected(MemberEvent):
    """A member that is connected has left the picks for a while, because of how its RPCs ended, or did not end.

    Attributes:
        duration: for how long, before it is on probation. Less, if it was silent and answers a ping.
        attempt: which ejection in a row it is; each lasts longer than the one before.
        reason: what was wrong.
    """

    duration: float
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing(MemberEvent):
    """An ejected member is on probation: the next RPC goes there, and how it ends decides."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Readmitted(MemberEvent):
    """An ejected member is back in the picks, after `duration`."""

    duration: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spared(MemberEvent):
    """A member should be ejected and is not: too many are out already, or too many went at once.

    Told every ten seconds at most for each member.

    Attributes:
        reason: why it should be, and why it is not.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFailing(Event):
    """Most members fail alike and none does well: so it is not the channel, and nobody is ejected.

    Attributes:
        failing: how many members fail.
        connected: of so many.
        reason: what was wrong with the last of them.
    """

    failing: int
    connected: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRecovered(Event):
    """Members answer again, `duration` after the pool as a whole began to fail."""

    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Panicked(Event):
    """Less than half of the members are left to be picked, so those that were taken out are picked again, too.

    Attributes:
        usable: how many were left.
        size: how many there should be.
    """

    usable: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PanicEnded(Event):
    """Enough members are usable again; whoever is ejected still has left the picks. `duration`: how long it took."""

    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NotServing(MemberEvent):
    """The member's server says that it does not serve (``health_check``): it has left the picks."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving(MemberEvent):
    """The member's server says that it serves again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyFailed(Event):
    """A strategy raised, or returned a member that it was not given; a safe picker served instead."""

    strategy: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceFailed(Event):
    """Something the pool did in the background raised. It goes on all the same; please report it."""

    error: str


Listener = Callable[[Event], object]
