"""The state machine that runs a pool: told what happened and when, it answers what to do.

Pure but for the random numbers it is given: it never waits, calls nobody, and has no clock. This half is about the pool
as a whole (opening, resizing, publishing, closing); `members` is about each member.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from .. import events
from ..errors import PoolClosed
from ..stats import health_of
from .admission import LineStats
from .connectivity import Connectivity, aggregate
from .health import Health
from .journal import Journal
from .lifetimes import Lifetimes
from .members import Members
from .messages import (
    Abort,
    Answer,
    Built,
    Close,
    Drained,
    Effect,
    Emit,
    Explained,
    Full,
    Input,
    Measure,
    Observed,
    Open,
    Pinged,
    Primed,
    Probed,
    Publish,
    Report,
    Republish,
    Resize,
    Retire,
    Served,
    Tick,
    Troubled,
    Wanted,
)
from .sizing import Sizing
from .slot import CLOSED, Phase, Policy, Slot

__all__ = ["Machine"]

# At most so often, in seconds, listeners are told that RPCs have begun to wait: a pool at its limit goes back and forth
# between waiting and not waiting with every RPC.
SATURATED_EVERY = 1.0


class Machine:
    """Decides everything about one pool.

    `handle` takes one input and returns the effects to carry out, in order. After it, `wake_at` says when a `Tick` is
    due. Not thread-safe: one input at a time. The attributes may be read from anywhere.

    Attributes:
        policy: the part of the configuration that matters here.
        sizing, lifetimes, journal: the parts that decide on its size and its members' ages; and what was decided.
        opened: when it opened, or None.
        closed: `Close` has been handled; no member is ever made again.
        members: every member there is.
        slots: what is known about each of them.
        state: the connectivity of the whole pool.
        wake_at: when the next `Tick` is due, or None.
    """

    def __init__(self, policy: Policy, rng: random.Random, line: Callable[[], LineStats] = LineStats) -> None:
        self.policy = policy
        self.opened: float | None = None
        self.closed = False
        self.members = Members(policy, rng)
        self.slots = self.members.slots
        self.sizing = Sizing(policy, self.members, self._answer)
        self.lifetimes = Lifetimes(policy, self.members, self.sizing, rng)
        self.health = Health(policy, self.members, self.sizing, self.lifetimes, rng)
        self.journal = Journal()
        self._line = line
        self._saturated_after = -math.inf
        self.state = Connectivity.IDLE
        self.wake_at: float | None = None
        self._report_due: float | None = None
        self._published: Publish | None = Publish((), ())
        self._built = False
        self._openers: list[Any] = []
        self._finished = False
        self._picked = 0
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
                    # Whoever has asked is told.
                    asker = self.health if slot.asked else members
                    members.answered(slot)
                    asker.pinged(slot, duration, error, now)
            case Troubled(member):
                slot = self.slots.get(member)
                if slot is not None:
                    self.health.troubled(slot)
            case Probed(member):
                slot = self.slots.get(member)
                if slot is not None:
                    self.health.ejections.given(slot, now)
                    # What was published is used up, also if the member is to be given another one at once.
                    self._publish_anew()
            case Served(member, serving, detail):
                slot = self.slots.get(member)
                if slot is not None:
                    self.health.served(slot, serving, detail)
            case Drained(member):
                slot = self.slots.get(member)
                if slot is not None and slot.phase is Phase.DRAINING and not member.leases:
                    members.remove(slot, self._why_gone(), now)
            case Primed(member, error):
                slot = self.slots.get(member)
                if slot is not None:
                    members.primed(slot, error, now)
            case Measure():
                self._on_measure(now)
            case Full():
                self._on_full(now)
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
                self._on_close(now)
            case Abort():
                self._on_abort(now)
            case Wanted():
                if not self.closed:
                    members.wanted(now)
            case Republish():  # pragma: no branch
                self._publish_anew()

    # --- the life of the pool

    def _publish_anew(self) -> None:
        # A closed pool has published its last.
        if not self.closed:
            self._published = None

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
            line = self._line()
            self.members.emit(
                events.StatusReport(
                    pool=self.policy.name,
                    expected=self.size,
                    current=current,
                    status=health_of(current, self.size),
                    in_flight=self.in_flight,
                    waiting=line.waiting,
                    waited=line.waited,
                    waited_seconds=line.seconds,
                    refused=line.refused,
                )
            )
        self.sizing.expire(now)
        self.members.due(now)

    def _on_close(self, now: float) -> None:
        if self.closed:
            return
        self.closed = True
        self.sizing.close()
        self._report_due = None
        for ticket in self._openers:
            self._answer(ticket, PoolClosed(f"pool {self.policy.name!r} was closed while it opened"))
        self._openers = []
        for slot in self.slots.values():
            self.members.retire(slot, CLOSED, now)

    def _why_gone(self) -> str:
        return CLOSED if self.closed else "the member was retired"

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
        self.sizing.advance(now)
        if not self.closed:
            self.lifetimes.advance(now)
            self.lifetimes.due(now)
            if self.opened is not None:
                self.health.advance(now)
        self._publish(now)
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
        times = [slot.due for slot in self.slots.values()]
        times += [self._report_due, self.sizing.deadline]
        if not self.closed:
            times += [self.lifetimes.next(), self.health.next()]
        self.wake_at = min((time for time in times if time is not None), default=None)
        for effect in self.members.out:
            if isinstance(effect, Emit):
                self.journal.note(effect.event, now)
        effects, self.members.out, self.members.leaving = self.members.out, [], []
        return effects

    def _publish(self, now: float) -> None:
        ready, probes, warming = self.health.choose(now)
        self._picked = len(ready)
        # Those that join do not count before they are connected; then they may still wait for their servers' word.
        usable = [
            slot for slot in self.slots.values() if slot.built and (not slot.joining or slot.phase is Phase.READY)
        ]
        fallback = tuple(slot.member for slot in usable if slot.coming)
        failed = tuple(slot.member for slot in usable if slot.phase is Phase.DOWN)
        down = bool(failed) and not fallback and not ready
        news = Publish(ready, () if ready else fallback or failed, self.closed, down, probes, warming)
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
    def size(self) -> int:
        """How many members the pool should have."""
        return self.sizing.size

    @property
    def in_flight(self) -> int:
        """RPCs that run on its members now."""
        return sum(len(member.leases) for member in list(self.slots))

    @property
    def ready_count(self) -> int:
        """How many members are connected, and may be picked."""
        return self._picked

    # --- resizing

    def _on_resize(self, message: Resize, now: float) -> None:
        if self.closed:
            self._answer(message.ticket, PoolClosed(f"pool {self.policy.name!r} is closed; it cannot be resized"))
        else:
            self.sizing.resize(message, now)

    def _on_full(self, now: float) -> None:
        if self.opened is not None and not self.closed and now >= self._saturated_after:
            self._saturated_after = now + SATURATED_EVERY
            self.members.emit(
                events.Saturated(
                    pool=self.policy.name, size=self.size, in_flight=self.in_flight, waiting=self._line().waiting
                )
            )
        self._on_measure(now)

    def _on_measure(self, now: float) -> None:
        if self.opened is not None and not self.closed:
            self.sizing.measure(self._line().waiting, now)

    def _answer(self, ticket: Any, outcome: int | Exception) -> None:
        # Held back until after the publishing: whoever is told that a resize is done must see its result.
        self._answers.append(Answer(ticket, outcome))


def _seen_from_outside(slot: Slot) -> Connectivity:
    if slot.phase is Phase.READY:
        return Connectivity.READY
    # Once failed, failed until it connects: see `aggregate`.
    failed = slot.phase is Phase.DOWN or slot.failures > 0
    return Connectivity.TRANSIENT_FAILURE if failed else Connectivity.CONNECTING
