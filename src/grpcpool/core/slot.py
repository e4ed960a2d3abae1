"""What the machine knows about the pool it runs, and about each member of it."""

from __future__ import annotations

import enum
import math
from collections.abc import Hashable
from dataclasses import dataclass

from ..endpoint import Endpoint
from .member import UNLIMITED, Member
from .window import Window

__all__ = ["CLOSED", "Condition", "Ejection", "Phase", "Policy", "Slot"]

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
        watched: its server is asked whether it serves.
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
    ping_timeout: float = 5.0
    max_consecutive_failures: int | None = None
    min_success_rate: float | None = None
    health_window: float = 30.0
    outlier_detection: bool = False
    unresponsive_after: float | None = None
    ejection_min: float = 5.0
    ejection_max: float = 300.0
    slow_start: float | None = None
    watched: bool = False


class Phase(enum.Enum):
    """Where a member is in its life."""

    CONNECTING = "connecting"
    PRIMING = "priming"
    READY = "ready"
    DOWN = "down"
    DRAINING = "draining"


@dataclass(slots=True, eq=False)
class Ejection:
    """A member that is connected has left the picks; see `Health`.

    Attributes:
        since, until: from when on, and until when unless something happens before.
        silent: a ping was not answered, or only after long.
        deaf: the last one was not; None: none has ended yet.
        ping_at: when to ping it next.
        half_open: it is to be given an RPC, or has been.
        given: when it was given that; None: it has not been yet.
        looked: when that was last looked at.
        before: its RPCs from before.
        picks, answers, blamed: its counts then.
    """

    since: float
    until: float
    ping_at: float
    silent: bool = False
    deaf: bool | None = None
    half_open: bool = False
    given: float | None = None
    looked: float = 0.0
    before: frozenset[Hashable] = frozenset()
    picks: int = 0
    answers: int = 0
    blamed: int = 0


@dataclass(slots=True, eq=False)
class Condition:
    """What has been seen of how a member does; see `Health`.

    Attributes:
        window: how its RPCs ended lately.
        connection: the number of the connection that all this is about.
        answers, blamed: its counts at the last look.
        failed: some failed between the last two looks.
        answered: when it was last seen to have answered something.
        quiet: since when RPCs run and none is answered.
        doubts: how often it was pinged in vain meanwhile, for it did answer.
        patient: until when it is not doubted again.
        doubted: when it was last pinged because it seemed not to answer; None: no such ping is under way.
        deaf: since when no ping was answered; None: the last one was, or there was none.
        ejections: in a row.
        lasted: how long the last one was meant to be.
        readmitted: when it came back from it.
        spared: when it was last told that it is spared.
        suspected: since when it does badly; None: it does not.
        pardoned: how many more may fail in a row than otherwise, for they ran while the process stood still.
        serving: what its server said last; None: nothing yet.
        held: until when it is waited for that, before the member is picked; None: no longer.
    """

    window: Window
    connection: int = 0
    answers: int = 0
    blamed: int = 0
    failed: bool = False
    answered: float = -math.inf
    quiet: float = 0.0
    doubts: int = 0
    patient: float = 0.0
    doubted: float | None = None
    deaf: float | None = None
    ejections: int = 0
    lasted: float = 0.0
    readmitted: float = 0.0
    spared: float = -math.inf
    suspected: float | None = None
    pardoned: int = 0
    serving: bool | None = None
    held: float | None = None

    def take_over(self, other: Condition) -> None:
        """Remember the ejections of a member in whose place this one's comes."""
        self.ejections, self.lasted, self.readmitted = other.ejections, other.lasted, other.readmitted


@dataclass(slots=True, eq=False)
class Slot:
    """What the machine knows about one member, beside what the member knows itself.

    Attributes:
        since: when its current attempt to connect began, or its draining.
        built: it has a channel.
        joining: a resize waits for it, or the member that it is to replace; it does not count towards the size yet.
        replaces: whose place it takes once it may be picked.
        ready_since: when it connected; None if it is not connected.
        connection: a number that no other connection of the pool has had.
        failures: attempts that failed since it was last connected, those of its predecessors included.
        due: when something is to be done about it: the next attempt if it is down, the next ping if it is ready, the
            end of patience if it is being primed or drained.
        trying: it is down, and an attempt should be under way by now.
        picks: its picks when it was last looked at for a ping.
        busy: an `Explain` or a `Ping` is under way.
        asked: the ping is one that `Health` asked for.
        error: the last connection error.
        gave_up: why it will not join after all.
        because: why that is to go.
        primings: how often its primer has failed.
        expires: when it will be too old; None if it has not been READY yet, or never will be.
        useless: why it is to be replaced before that; None if it is not.
        hurried: when it is to be replaced for that.
        served, busy_at: its picks when it was last seen to have been used, and when that was.
        leaves: why it was retired.
        condition: how it does.
        ejection: it is not to be picked for a while, though it is connected.
        returned: when it connected after it had failed to, or came back from an ejection; None: long ago, or never.
    """

    member: Member
    since: float
    condition: Condition
    phase: Phase = Phase.CONNECTING
    built: bool = False
    joining: bool = False
    ready_since: float | None = None
    connection: int = 0
    failures: int = 0
    due: float | None = None
    trying: bool = False
    picks: int = -1
    busy: bool = False
    asked: bool = False
    error: str | None = None
    gave_up: str | None = None
    replaces: Slot | None = None
    because: str = ""
    primings: int = 0
    expires: float | None = None
    useless: str | None = None
    hurried: float = 0.0
    served: int = -1
    busy_at: float = 0.0
    leaves: str = ""
    ejection: Ejection | None = None
    returned: float | None = None

    @property
    def usable(self) -> bool:
        """It is connected, and nothing speaks against picking it."""
        return self.phase is Phase.READY and self.ejection is None and self.serves and self.condition.held is None

    @property
    def serves(self) -> bool:
        """Its server has not said otherwise."""
        return self.condition.serving is not False

    @property
    def coming(self) -> bool:
        """It may soon be usable."""
        waits = self.phase is Phase.READY and self.ejection is None and self.condition.held is not None
        return waits or self.phase in (Phase.CONNECTING, Phase.PRIMING)

    @property
    def state(self) -> str:
        """Where it is, in a word."""
        if self.phase is not Phase.READY or self.usable:
            return self.phase.value
        if self.ejection is None:
            return "not serving" if self.condition.held is None else "checking"
        return "probing" if self.ejection.half_open else "ejected"

    @property
    def active(self) -> bool:
        """It counts towards the size."""
        return self.phase is not Phase.DRAINING and not self.joining
