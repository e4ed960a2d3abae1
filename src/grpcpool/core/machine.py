"""The state machine that runs a pool: told what happened and when, it answers what to do.

Pure but for the random numbers it is given: it never waits, calls nobody, and has no clock. This half is about the pool
as a whole (opening, resizing, publishing, closing); `members` is about each member.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from .. import events
from ..errors import PoolClosed, ScalingError
from ..stats import health_of
from .connectivity import Connectivity, aggregate
from .members import Members
from .messages import (
    Abort,
    Answer,
    Built,
    Close,
    Drained,
    Effect,
    Explained,
    Input,
    Observed,
    Open,
    Pinged,
    Publish,
    Report,
    Republish,
    Resize,
    Retire,
    Tick,
    Wanted,
)
from .slot import Phase, Policy, Slot

__all__ = ["Machine"]


@dataclass(slots=True)
class _Growth:
    """A resize upwards that waits for its members to connect."""

    ticket: Any
    requested: int
    started: float
    deadline: float
    waiting: list[Slot] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Machine:
    """Decides everything about one pool.

    `handle` takes one input and returns the effects to carry out, in order. After it, `wake_at` says when a `Tick` is
    due. Not thread-safe: one input at a time. The attributes may be read from anywhere.

    Attributes:
        policy: the part of the configuration that matters here.
        size: how many members the pool should have.
        opened: when it opened, or None.
        closed: `Close` has been handled; no member is ever made again.
        members: every member there is.
        slots: what is known about each of them.
        state: the connectivity of the whole pool.
        wake_at: when the next `Tick` is due, or None.
    """

    def __init__(self, policy: Policy, rng: random.Random) -> None:
        self.policy = policy
        self.size = policy.size
        self.opened: float | None = None
        self.closed = False
        self.members = Members(policy, rng)
        self.slots = self.members.slots
        self.state = Connectivity.IDLE
        self.wake_at: float | None = None
        self._growth: _Growth | None = None
        self._report_due: float | None = None
        self._published: Publish | None = Publish((), ())
        self._built = False
        self._openers: list[Any] = []
        self._finished = False
        self._answers: list[Answer] = []

    def handle(self, message: Input, now: float) -> list[Effect]:
        """Take in one message at the time `now` and return what to do about it, in order."""
        self.take(message, now)
        return self.settle(now)

    def take(self, message: Input, now: float) -> None:
        """Take in one of several messages; `settle` then says what to do about all of them.

        What concerns a member that is gone is ignored: an answer may arrive after its question has become pointless.
        """
        members = self.members
        match message:
            case Observed(member, state):
                slot = self.slots.get(member)
                if slot is not None:
                    members.observed(slot, state, now)
            case Explained(member, error):
                slot = self.slots.get(member)
                if slot is not None:
                    members.explained(slot, error, now)
            case Pinged(member, duration, error):
                slot = self.slots.get(member)
                if slot is not None:
                    members.pinged(slot, duration, error, now)
            case Drained(member):
                slot = self.slots.get(member)
                if slot is not None and slot.phase is Phase.DRAINING and not member.leases:
                    members.remove(slot, self._why_gone(), now)
            case Built(built, failed):
                self._on_built()
                members.built(built, failed, now)
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
            case Wanted():
                if not self.closed:
                    members.wanted(now)
            case Republish():  # pragma: no branch
                # A closed pool has published its last.
                if not self.closed:
                    self._published = None

    # --- the life of the pool

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
        self.members.emit(events.Opened(pool=self.policy.name, size=self.size, endpoints=targets))
        self.members.add(self.size, now)

    def _on_built(self) -> None:
        if not self._built:
            # Published even if no channel could be made: what was there before opens the pool, and it is open.
            self._built = True
            self._published = None

    def _on_tick(self, now: float) -> None:
        if self._report_due is not None and now >= self._report_due:
            # Counted from now, not from when it was due: after the machine slept there is one report, not a burst.
            self._report_due = now + (self.policy.telemetry_interval or 0)
            current = self.ready_count
            self.members.emit(
                events.StatusReport(
                    pool=self.policy.name,
                    expected=self.size,
                    current=current,
                    status=health_of(current, self.size),
                )
            )
        if self._growth is not None and now >= self._growth.deadline:
            for slot in self._growth.waiting:
                took = f"{self.policy.connect_timeout:g} s"
                slot.gave_up = slot.error or f"{slot.member.endpoint} did not connect within {took}"
        self.members.due(now)

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
            self.members.retire(slot)

    def _why_gone(self) -> str:
        return "the pool was closed" if self.closed else "the member was retired"

    def _on_abort(self, now: float) -> None:
        if self.closed:
            for slot in list(self.slots.values()):
                self.members.remove(slot, self._why_gone(), now)

    def settle(self, now: float) -> list[Effect]:
        """Return what to do about the messages taken in, in order.

        To what each message asked for is added what follows from any change: picks published before all else, then
        members retired, those who wait answered, and the next wake-up. That takes a look at every member, which is why
        it is done once for many messages: a large pool has as many of them as members when it connects.
        """
        if self._growth is not None:
            self._advance_growth(self._growth, now)
        self._publish()
        # Only now: whoever finds a member retired must find a newer generation, or it would pick that member again.
        self.members.out.extend(Retire(member) for member in self.members.leaving)
        if self._built:
            for ticket in self._openers:
                self._answer(ticket, self.size)
            self._openers = []
        self.members.out.extend(self._answers)
        self._answers = []
        state = self._aggregate()
        if state is not self.state:
            self.state = state
            self.members.out.append(Report(state))
        if self.closed and not self.slots and not self._finished:
            self._finished = True
            if self.opened is not None:
                self.members.emit(events.Closed(pool=self.policy.name, open_for=now - self.opened))
        times = [slot.due for slot in self.slots.values() if slot.due is not None]
        if self._report_due is not None:
            times.append(self._report_due)
        if self._growth is not None:
            times.append(self._growth.deadline)
        self.wake_at = min(times, default=None)
        effects, self.members.out, self.members.leaving = self.members.out, [], []
        return effects

    def _publish(self) -> None:
        ready = tuple(slot.member for slot in self.slots.values() if slot.phase is Phase.READY)
        usable = [slot for slot in self.slots.values() if slot.built and not slot.joining]
        fallback = tuple(slot.member for slot in usable if slot.phase is Phase.CONNECTING)
        failed = tuple(slot.member for slot in usable if slot.phase is Phase.DOWN)
        down = bool(failed) and not fallback and not ready
        news = Publish(ready, () if ready else fallback or failed, self.closed, down)
        if news != self._published:
            self._published = news
            # Before all else: picks must not wait until every listener has been told why they change.
            self.members.out.insert(0, news)

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
            self._growth.waiting.extend(self.members.add(change, now, joining=True))
            return
        for slot in self._least_needed(-change):
            self.members.retire(slot)
        self.size = wanted
        if change:
            self.members.emit(_scaled(events.ScaledDown, self, now, now, -change, -change))
        self._answer(message.ticket, wanted)

    def _why_not(self, wanted: int) -> Exception | None:
        name = self.policy.name
        if self.closed:
            return PoolClosed(f"pool {name!r} is closed; it cannot be resized")
        if self._growth is not None:
            return ScalingError(
                f"pool {name!r} is already scaling: {len(self._growth.waiting)} of {self._growth.requested} new "
                "members are still connecting; try again when that resize has returned",
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

    def _advance_growth(self, growth: _Growth, now: float) -> None:
        for slot in list(growth.waiting):
            if slot.gave_up is not None:
                growth.errors.append(slot.gave_up)
                self.members.retire(slot)
            if slot.gave_up is not None or not slot.joining:
                growth.waiting.remove(slot)
        if growth.waiting:
            return
        self._growth = None
        failed = len(growth.errors)
        succeeded = growth.requested - failed
        self.size += succeeded
        self.members.emit(_scaled(events.ScaledUp, self, growth.started, now, growth.requested, succeeded))
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
    kind: type[events.ScaledUp | events.ScaledDown],
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
