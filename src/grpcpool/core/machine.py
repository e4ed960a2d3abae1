"""The state machine that runs a pool: told what happened and when, it answers what to do.

Pure but for the random numbers it is given: it never waits, calls nobody, and has no clock. What happens to a member is
one table, `TRANSITIONS`; a pair of phase and observation that is not in it does not exist.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import events
from ..endpoint import Endpoint, place
from ..errors import PoolClosed, ScalingError
from ..stats import health_of
from .backoff import backoff
from .connectivity import Connectivity, aggregate
from .member import Member
from .messages import (
    Abort,
    Answer,
    Built,
    Close,
    CloseChannel,
    Connect,
    Drained,
    Effect,
    Emit,
    Explain,
    Explained,
    Input,
    Observed,
    Open,
    OpenChannels,
    Ping,
    Pinged,
    Publish,
    Report,
    Republish,
    Resize,
    Retire,
    Tick,
)

__all__ = ["TRANSITIONS", "Machine", "Phase", "Policy", "Slot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the machine needs of a pool's configuration. Durations are seconds."""

    name: str
    endpoints: tuple[Endpoint, ...]
    size: int
    backoff_min: float = 1.0
    backoff_max: float = 30.0
    max_reconnect_attempts: int = 5
    connect_timeout: float = 10.0
    ping_interval: float | None = None
    telemetry_interval: float | None = 5.0


class Phase(enum.Enum):
    """Where a member is in its life."""

    CONNECTING = "connecting"
    READY = "ready"
    DOWN = "down"
    DRAINING = "draining"


@dataclass(slots=True, eq=False)
class Slot:
    """What the machine knows about one member, beside what the member knows itself.

    Attributes:
        since: when its current attempt to connect began.
        built: it has a channel.
        joining: a resize waits for it; it does not count towards the size yet.
        ready_since: when it connected; None if it is not connected.
        failures: attempts that failed since it was last connected, those of its predecessors included.
        due: when something is to be done about it: the next attempt if it is down, the next ping if it is ready.
        picks: its picks when it was last looked at for a ping.
        busy: an `Explain` or a `Ping` is under way.
        error: the last connection error.
    """

    member: Member
    since: float
    phase: Phase = Phase.CONNECTING
    built: bool = False
    joining: bool = False
    ready_since: float | None = None
    failures: int = 0
    due: float | None = None
    picks: int = -1
    busy: bool = False
    error: str | None = None


@dataclass(slots=True)
class _Growth:
    """A resize upwards that waits for its members to connect."""

    ticket: Any
    requested: int
    started: float
    deadline: float
    waiting: set[Slot] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


class Machine:
    """Decides everything about one pool's members.

    `handle` takes one input and returns the effects to carry out, in order. After it, `wake_at` says when a `Tick` is
    due. Not thread-safe: one input at a time. The attributes may be read from anywhere.

    Attributes:
        size: how many members the pool should have.
        opened: when it opened, or None.
        closed: `Close` has been handled; no member is ever made again.
        slots: every member there is, draining ones included.
        state: the connectivity of the whole pool.
        last_error: the last connection error, of whichever member.
        wake_at: when the next `Tick` is due, or None.
        connects, disconnects, connect_failures: totals.
        past_calls, past_failures: totals of the members that are gone.
    """

    def __init__(self, policy: Policy, rng: random.Random) -> None:
        self.policy = policy
        self.size = policy.size
        self.opened: float | None = None
        self.closed = False
        self.slots: dict[Member, Slot] = {}
        self.state = Connectivity.IDLE
        self.last_error: str | None = None
        self.wake_at: float | None = None
        self.connects = self.disconnects = self.connect_failures = 0
        self.past_calls = self.past_failures = 0
        self._rng = rng
        self._next_id = 0
        self._growth: _Growth | None = None
        self._report_due: float | None = None
        self._published: tuple[tuple[Member, ...], tuple[Member, ...], bool] | None = ((), (), False)
        self._built = False
        self._openers: list[Any] = []
        self._finished = False
        self._out: list[Effect] = []
        self._leaving: list[Member] = []
        self._answers: list[Answer] = []

    def handle(self, message: Input, now: float) -> list[Effect]:
        """Take in one message at the time `now` and return what to do about it, in order.

        What concerns a member that is gone is ignored: an answer may arrive after its question has become pointless.
        """
        self._out = []
        self._leaving = []
        self._answers = []
        match message:
            case Observed(member, state):
                slot = self.slots.get(member)
                if slot is not None:
                    TRANSITIONS[slot.phase, state](self, slot, state, now)
            case Explained(member, error):
                slot = self.slots.get(member)
                if slot is not None:
                    self._on_explained(slot, error, now)
            case Pinged(member, duration, error):
                slot = self.slots.get(member)
                if slot is not None:
                    self._on_pinged(slot, duration, error, now)
            case Drained(member):
                slot = self.slots.get(member)
                if slot is not None and slot.phase is Phase.DRAINING and not member.leases:
                    self._remove(slot, now)
            case Built(built, failed):
                self._on_built(built, failed, now)
            case Tick():
                self._on_tick(now)
            case Open(ticket):
                self._on_open(ticket, now)
            case Resize():
                self._on_resize(message, now)
            case Close():
                self._on_close()
            case Abort():
                self._on_abort(now)
            case Republish():  # pragma: no branch
                # A closed pool has published its last.
                if not self.closed:
                    self._published = None
        self._settle(now)
        return self._out

    # --- the pool

    def _on_open(self, ticket: Any, now: float) -> None:
        if self.closed:
            self._answer(ticket, PoolClosed(f"pool {self.policy.name!r} is closed; make a new one"))
            return
        self._openers.append(ticket)
        if self.opened is not None:
            return
        self.opened = now
        if self.policy.telemetry_interval is not None:
            self._report_due = now + self.policy.telemetry_interval
        targets = tuple(endpoint.target for endpoint in self.policy.endpoints)
        self._emit(events.Opened(pool=self.policy.name, size=self.size, endpoints=targets))
        self._add(self.size, now)

    def _on_tick(self, now: float) -> None:
        if self._report_due is not None and now >= self._report_due:
            # Counted from now, not from when it was due: after the machine slept there is one report, not a burst.
            self._report_due = now + (self.policy.telemetry_interval or 0)
            current = self.ready_count
            self._emit(
                events.StatusReport(
                    pool=self.policy.name,
                    expected=self.size,
                    current=current,
                    status=health_of(current, self.size),
                )
            )
        if self._growth is not None and now >= self._growth.deadline:
            for slot in list(self._growth.waiting):
                took = f"{self.policy.connect_timeout:g} s"
                self._give_up(slot, slot.error or f"{slot.member.endpoint} did not connect within {took}")
        for slot in list(self.slots.values()):
            if slot.due is not None and now >= slot.due:
                slot.due = None
                if slot.phase is Phase.READY:
                    self._consider_ping(slot, now)
                else:
                    self._retry(slot, now)

    def _on_close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self._growth is not None:
            self._answer(self._growth.ticket, PoolClosed(f"pool {self.policy.name!r} was closed during the resize"))
            self._growth = None
        self._report_due = None
        for ticket in self._openers:
            self._answer(ticket, PoolClosed(f"pool {self.policy.name!r} was closed while it opened"))
        self._openers = []
        for slot in self.slots.values():
            self._retire(slot)

    def _on_abort(self, now: float) -> None:
        if self.closed:
            for slot in list(self.slots.values()):
                self._remove(slot, now)

    def _settle(self, now: float) -> None:
        """What follows from any change: growth done, picks published, then members retired, and the next wake-up."""
        if self._growth is not None and not self._growth.waiting:
            self._finish_growth(self._growth, now)
        self._publish()
        # Only now: whoever finds a member retired must find a newer generation, or it would pick that member again.
        self._out.extend(Retire(member) for member in self._leaving)
        if self._built:
            for ticket in self._openers:
                self._answer(ticket, self.size)
            self._openers = []
        self._out.extend(self._answers)
        state = self._aggregate()
        if state is not self.state:
            self.state = state
            self._out.append(Report(state))
        if self.closed and not self.slots and not self._finished:
            self._finished = True
            if self.opened is not None:
                self._emit(events.Closed(pool=self.policy.name, open_for=now - self.opened))
        times = [slot.due for slot in self.slots.values() if slot.due is not None]
        if self._report_due is not None:
            times.append(self._report_due)
        if self._growth is not None:
            times.append(self._growth.deadline)
        self.wake_at = min(times, default=None)

    def _publish(self) -> None:
        ready = tuple(slot.member for slot in self.slots.values() if slot.phase is Phase.READY)
        usable = [slot for slot in self.slots.values() if slot.built and not slot.joining]
        fallback = tuple(slot.member for slot in usable if slot.phase is Phase.CONNECTING) or tuple(
            slot.member for slot in usable if slot.phase is Phase.DOWN
        )
        news = (ready, () if ready else fallback, self.closed)
        if news != self._published:
            self._published = news
            self._out.append(Publish(*news))

    def _aggregate(self) -> Connectivity:
        if self.closed:
            return Connectivity.SHUTDOWN
        if self.opened is None:
            return Connectivity.IDLE
        # A pool whose members are about to be built is already asked to connect.
        states = [_seen_from_outside(slot) for slot in self.slots.values() if slot.phase is not Phase.DRAINING]
        return aggregate(states or [Connectivity.CONNECTING])

    @property
    def ready_count(self) -> int:
        """How many members are connected."""
        return sum(slot.phase is Phase.READY for slot in list(self.slots.values()))

    # --- resizing

    def _on_resize(self, message: Resize, now: float) -> None:
        wanted = self.size + message.by if message.to is None else message.to
        problem = self._why_not(wanted)
        if problem is not None:
            self._answer(message.ticket, problem)
            return
        change = wanted - self.size
        if change > 0:
            self._growth = _Growth(message.ticket, change, now, now + self.policy.connect_timeout)
            self._growth.waiting.update(self._add(change, now, joining=True))
            return
        for slot in self._least_needed(-change):
            self._retire(slot)
        self.size = wanted
        if change:
            self._emit(_scaled(events.ScaledDown, self, now, now, -change, -change))
        self._answer(message.ticket, wanted)

    def _why_not(self, wanted: int) -> Exception | None:
        name = self.policy.name
        if self.closed:
            return PoolClosed(f"pool {name!r} is closed; it cannot be resized")
        if self._growth is not None:
            return ScalingError(
                f"pool {name!r} is already scaling: {len(self._growth.waiting)} of {self._growth.requested} new members "
                "are still connecting; try again when that resize has returned",
                size=self.size,
            )
        if wanted < 1:
            return ScalingError(
                f"pool {name!r} has {self.size} members and must keep at least one; nothing was changed "
                f"(a size of {wanted} was asked for; close() ends a pool)",
                size=self.size,
            )
        return None

    def _least_needed(self, count: int) -> list[Slot]:
        """Choose who leaves: from the fullest endpoint, there the unconnected first, then the one with least to do."""
        staying = [slot for slot in self.slots.values() if slot.phase is not Phase.DRAINING]
        chosen = []
        for _ in range(count):
            crowd: dict[str, int] = {}
            for slot in staying:
                crowd[slot.member.endpoint] = crowd.get(slot.member.endpoint, 0) + 1
            leaver = min(
                staying,
                key=lambda slot: (
                    -crowd[slot.member.endpoint],
                    slot.phase is Phase.READY,
                    slot.member.in_flight,
                    -slot.member.id,
                ),
            )
            staying.remove(leaver)
            chosen.append(leaver)
        return chosen

    def _finish_growth(self, growth: _Growth, now: float) -> None:
        self._growth = None
        failed = len(growth.errors)
        succeeded = growth.requested - failed
        self.size += succeeded
        self._emit(_scaled(events.ScaledUp, self, growth.started, now, growth.requested, succeeded))
        if not failed:
            self._answer(growth.ticket, self.size)
            return
        self._answer(
            growth.ticket,
            ScalingError(
                f"pool {self.policy.name!r} was to grow by {growth.requested} but grew by {succeeded}: "
                f"{failed} new members did not connect; its size is {self.size}; last error: {growth.errors[-1]}",
                size=self.size,
                requested=growth.requested,
                succeeded=succeeded,
                failed=failed,
            ),
        )

    def _give_up(self, slot: Slot, error: str) -> None:
        assert self._growth is not None, "who joins, joins by growth"
        self._growth.waiting.discard(slot)
        self._growth.errors.append(error)
        self._retire(slot)

    # --- members

    def _add(self, count: int, now: float, *, joining: bool = False, failures: int = 0) -> list[Slot]:
        slots = []
        for _ in range(count):
            taken = [slot.member.endpoint for slot in self.slots.values() if slot.phase is not Phase.DRAINING]
            endpoint = place(self.policy.endpoints, taken)
            member = Member(self._next_id, endpoint.target, weight=endpoint.weight, born=now)
            self._next_id += 1
            slot = Slot(member, since=now, joining=joining, failures=failures)
            self.slots[member] = slot
            slots.append(slot)
        self._out.append(OpenChannels(tuple(slot.member for slot in slots)))
        return slots

    def _on_built(self, built: Sequence[Member], failed: Sequence[tuple[Member, str]], now: float) -> None:
        if not self._built:
            # Published even if no channel could be made: what was there before opens the pool, and it is open.
            self._built = True
            self._published = None
        for member in built:
            slot = self.slots.get(member)
            if slot is None:
                # Closed (with abort) while its channel was being made: nobody else will ever close that channel.
                self._out.append(CloseChannel(member))
                continue
            slot.built = True
            if slot.phase is Phase.DRAINING:
                continue
            slot.phase = Phase.CONNECTING
            self._out.append(Connect(member))
        for member, error in failed:
            slot = self.slots.get(member)
            if slot is not None and slot.phase is not Phase.DRAINING:
                slot.phase = Phase.DOWN
                self._attempt_failed(slot, error, now)

    def _on_connected(self, slot: Slot, state: Connectivity, now: float) -> None:
        slot.phase = Phase.READY
        slot.ready_since = now
        slot.failures = 0
        slot.error = None
        slot.picks = -1
        slot.due = None if self.policy.ping_interval is None else now + self.policy.ping_interval
        if slot.joining and self._growth is not None:
            slot.joining = False
            self._growth.waiting.discard(slot)
        self.connects += 1
        self._emit(events.Connected(duration=now - slot.since, **self._about(slot)))

    def _on_lost(self, slot: Slot, state: Connectivity, now: float) -> None:
        reason = f"the connection was lost (channel {state.value})"
        self._lose(slot, reason, now)
        slot.since = now
        if state is Connectivity.TRANSIENT_FAILURE:
            slot.phase = Phase.DOWN
            self._explain(slot)
            return
        slot.phase = Phase.CONNECTING
        self._out.append(Connect(slot.member))

    def _on_connect_failed(self, slot: Slot, state: Connectivity, now: float) -> None:
        slot.phase = Phase.DOWN
        self._explain(slot)

    def _on_idle(self, slot: Slot, state: Connectivity, now: float) -> None:
        self._out.append(Connect(slot.member))

    def _on_shutdown(self, slot: Slot, state: Connectivity, now: float) -> None:
        reason = "its channel was closed from outside the pool"
        self._lose(slot, reason, now)
        if slot.joining:
            self._give_up(slot, reason)
        else:
            self._replace(slot, now)

    def _stay(self, slot: Slot, state: Connectivity, now: float) -> None:
        """Nothing to do: the observation is what the phase stands for, or comes too late to matter."""

    def _on_explained(self, slot: Slot, error: str | None, now: float) -> None:
        slot.busy = False
        if slot.phase is not Phase.DOWN:
            return
        if error is not None:
            self._attempt_failed(slot, error, now)
        else:
            # It answered, so it will be seen as ready in a moment. Should that not happen, look again.
            slot.due = now + self.policy.backoff_min

    def _attempt_failed(self, slot: Slot, error: str, now: float) -> None:
        slot.failures += 1
        slot.error = self.last_error = error
        self.connect_failures += 1
        self._emit(events.ConnectFailed(duration=now - slot.since, error=error, **self._about(slot)))
        if slot.joining:
            self._give_up(slot, error)
            return
        if slot.built and slot.failures % self.policy.max_reconnect_attempts == 0:
            self._replace(slot, now)
            return
        delay = backoff(
            slot.failures, minimum=self.policy.backoff_min, maximum=self.policy.backoff_max, rng=self._rng
        )
        slot.due = now + delay
        self._emit(
            events.ReconnectScheduled(delay=delay, attempt=slot.failures, reason=error, **self._about(slot))
        )

    def _retry(self, slot: Slot, now: float) -> None:
        slot.since = now
        if slot.built:
            # grpc makes the attempt by itself, on the same schedule; asking how it went is the attempt's end.
            self._out.append(Connect(slot.member))
            self._explain(slot)
        else:
            self._out.append(OpenChannels((slot.member,)))

    def _replace(self, slot: Slot, now: float) -> None:
        """Let a fresh channel take the member's place. The old one stays until its last RPC has ended."""
        self._retire(slot)
        # The failures go along, so that the waits keep growing: a channel made anew starts with quick attempts of its
        # own anyway, and making channels is not free (create and close leak a little in grpc).
        successor = self._add(1, now, failures=slot.failures)[0]
        successor.error = slot.error
        self._emit(
            events.Rebuilt(replacement=successor.member.id, attempts=slot.failures, **self._about(slot))
        )

    def _consider_ping(self, slot: Slot, now: float) -> None:
        assert self.policy.ping_interval is not None
        picks = slot.member.picks
        idle = picks == slot.picks and not slot.member.leases
        slot.picks = picks
        if idle and not slot.busy:
            slot.busy = True
            self._out.append(Ping(slot.member))
        else:
            slot.due = now + self.policy.ping_interval

    def _on_pinged(self, slot: Slot, duration: float, error: str | None, now: float) -> None:
        slot.busy = False
        if slot.phase is Phase.DOWN:
            self._explain(slot)
        if slot.phase is not Phase.READY:
            return
        if error is None:
            self._emit(events.Pinged(duration=duration, result="alive", **self._about(slot)))
            slot.due = now + (self.policy.ping_interval or 0)
            return
        self._emit(events.Pinged(duration=duration, result="dead", detail=error, **self._about(slot)))
        slot.error = self.last_error = error
        self._lose(slot, f"a ping failed: {error}", now)
        self._replace(slot, now)

    def _lose(self, slot: Slot, reason: str, now: float) -> None:
        if slot.ready_since is None:
            return
        uptime, slot.ready_since, slot.due = now - slot.ready_since, None, None
        self.disconnects += 1
        self._emit(events.ConnectionDown(reason=reason, **self._about(slot)))
        self._emit(events.Disconnected(uptime=uptime, reason=reason, **self._about(slot)))

    def _explain(self, slot: Slot) -> None:
        if not slot.busy:
            slot.busy = True
            self._out.append(Explain(slot.member))

    def _retire(self, slot: Slot) -> None:
        if slot.phase is not Phase.DRAINING:
            slot.phase = Phase.DRAINING
            slot.due = None
            self._leaving.append(slot.member)

    def _remove(self, slot: Slot, now: float) -> None:
        member = slot.member
        del self.slots[member]
        self.past_calls += member.picks
        self.past_failures += member.failures
        if slot.built:
            self._out.append(CloseChannel(member))
        if slot.ready_since is not None:
            self.disconnects += 1
            reason = "the pool was closed" if self.closed else "the member was retired"
            self._emit(events.Disconnected(uptime=now - slot.ready_since, reason=reason, **self._about(slot)))

    # --- small change

    def _about(self, slot: Slot) -> dict[str, Any]:
        return {"pool": self.policy.name, "member": slot.member.id, "endpoint": slot.member.endpoint}

    def _emit(self, event: events.Event) -> None:
        self._out.append(Emit(event))

    def _answer(self, ticket: Any, outcome: int | Exception) -> None:
        # Held back until after the publishing: whoever is told that a resize is done must see its result.
        self._answers.append(Answer(ticket, outcome))


def _seen_from_outside(slot: Slot) -> Connectivity:
    if slot.phase is Phase.READY:
        return Connectivity.READY
    # Once failed, failed until it connects: see `aggregate`.
    failed = slot.phase is Phase.DOWN or slot.failures > 0
    return Connectivity.TRANSIENT_FAILURE if failed else Connectivity.CONNECTING


def _scaled(
    kind: type[events.ScaledUp] | type[events.ScaledDown],
    machine: Machine,
    started: float,
    now: float,
    requested: int,
    succeeded: int,
) -> events.Scaling:
    return kind(
        pool=machine.policy.name,
        duration=now - started,
        requested=requested,
        succeeded=succeeded,
        failed=requested - succeeded,
        new_size=machine.size,
    )


_Action = Callable[[Machine, Slot, Connectivity, float], None]

# What an observation means in each phase. READY after TRANSIENT_FAILURE is the good end of grpc's own retries; IDLE
# wherever a connection is wanted is answered by asking for one; a draining member is nobody's business any more.
TRANSITIONS: dict[tuple[Phase, Connectivity], _Action] = {
    (Phase.CONNECTING, Connectivity.IDLE): Machine._on_idle,
    (Phase.CONNECTING, Connectivity.CONNECTING): Machine._stay,
    (Phase.CONNECTING, Connectivity.READY): Machine._on_connected,
    (Phase.CONNECTING, Connectivity.TRANSIENT_FAILURE): Machine._on_connect_failed,
    (Phase.CONNECTING, Connectivity.SHUTDOWN): Machine._on_shutdown,
    (Phase.READY, Connectivity.IDLE): Machine._on_lost,
    (Phase.READY, Connectivity.CONNECTING): Machine._on_lost,
    (Phase.READY, Connectivity.READY): Machine._stay,
    (Phase.READY, Connectivity.TRANSIENT_FAILURE): Machine._on_lost,
    (Phase.READY, Connectivity.SHUTDOWN): Machine._on_shutdown,
    (Phase.DOWN, Connectivity.IDLE): Machine._on_idle,
    (Phase.DOWN, Connectivity.CONNECTING): Machine._stay,
    (Phase.DOWN, Connectivity.READY): Machine._on_connected,
    (Phase.DOWN, Connectivity.TRANSIENT_FAILURE): Machine._stay,
    (Phase.DOWN, Connectivity.SHUTDOWN): Machine._on_shutdown,
    (Phase.DRAINING, Connectivity.IDLE): Machine._stay,
    (Phase.DRAINING, Connectivity.CONNECTING): Machine._stay,
    (Phase.DRAINING, Connectivity.READY): Machine._stay,
    (Phase.DRAINING, Connectivity.TRANSIENT_FAILURE): Machine._stay,
    (Phase.DRAINING, Connectivity.SHUTDOWN): Machine._stay,
}
