"""What the machine knows about the pool it runs, and about each member of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ..endpoint import Endpoint
from .member import UNLIMITED, Member

__all__ = ["CLOSED", "Phase", "Policy", "Slot"]

# Why a member leaves that leaves with all the others.
CLOSED = "the pool was closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the machine needs of a pool's configuration. Durations are seconds.

    Attributes:
        cap: RPCs that may be in flight at once on one member.
        bounds: the least and the most members that the load may bring the pool to.
        band: RPCs in flight per member, below which it shrinks and above which it grows; None: its size is fixed.
        primed: a new member is not to be picked before its primer has run.
    """

    name: str
    endpoints: tuple[Endpoint, ...]
    size: int
    cap: int = UNLIMITED
    max_waiting: int = 1000
    bounds: tuple[int, int] = (1, 1)
    band: tuple[float, float] | None = None
    scale_down_interval: float = 5.0
    max_lifetime: float | None = None
    max_idle: float | None = None
    primed: bool = False
    primer_timeout: float = 5.0
    drain_timeout: float | None = None
    backoff_min: float = 1.0
    backoff_max: float = 30.0
    max_reconnect_attempts: int = 5
    connect_timeout: float = 10.0
    ping_interval: float | None = None
    telemetry_interval: float | None = 5.0


class Phase(enum.Enum):
    """Where a member is in its life."""

    CONNECTING = "connecting"
    PRIMING = "priming"
    READY = "ready"
    DOWN = "down"
    DRAINING = "draining"


@dataclass(slots=True, eq=False)
class Slot:
    """What the machine knows about one member, beside what the member knows itself.

    Attributes:
        since: when its current attempt to connect began, or its draining.
        built: it has a channel.
        joining: a resize waits for it, or the member that it is to replace; it does not count towards the size yet.
        replaces: whose place it takes once it is READY.
        ready_since: when it connected; None if it is not connected.
        failures: attempts that failed since it was last connected, those of its predecessors included.
        due: when something is to be done about it: the next attempt if it is down, the next ping if it is ready, the
            end of patience if it is being primed or drained.
        trying: it is down, and an attempt should be under way by now.
        picks: its picks when it was last looked at for a ping.
        busy: an `Explain` or a `Ping` is under way.
        error: the last connection error.
        gave_up: why it will not join after all.
        primings: how often its primer has failed.
        expires: when it will be too old; None if it has not been READY yet.
        served, busy_at: its picks when it was last seen to have been used, and when that was.
        leaves: why it was retired.
    """

    member: Member
    since: float
    phase: Phase = Phase.CONNECTING
    built: bool = False
    joining: bool = False
    ready_since: float | None = None
    failures: int = 0
    due: float | None = None
    trying: bool = False
    picks: int = -1
    busy: bool = False
    error: str | None = None
    gave_up: str | None = None
    replaces: Slot | None = None
    primings: int = 0
    expires: float | None = None
    served: int = -1
    busy_at: float = 0.0
    leaves: str = ""

    @property
    def active(self) -> bool:
        """It counts towards the size."""
        return self.phase is not Phase.DRAINING and not self.joining
