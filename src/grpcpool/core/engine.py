"""What both rooms are built around: the machine, its driver, the published generation and the listeners, wired up."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Iterator
from typing import Any

from .. import events
from ..events import Event, Listener
from ..stats import PoolStats, PoolStatus
from ..strategies.base import Clock, Strategy
from . import snapshot
from .admission import Admission
from .budget import Budget
from .bus import Bus
from .counters import Tally
from .course import Course, Plan, SentAgain
from .driver import Driver
from .generation import Generation, GenerationBuilder
from .lease import Lease
from .machine import Machine
from .member import Member
from .messages import (
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
    Full,
    Input,
    Measure,
    OpenChannels,
    Ping,
    Pinged,
    Prime,
    Primed,
    Probed,
    Publish,
    Report,
    Republish,
    Retire,
    Troubled,
    Watch,
)
from .norm import Norms
from .room import Room
from .slot import Phase, Policy
from .slow_start import gradually, once_each

__all__ = ["Engine", "go_on"]


class Engine:
    """Runs one pool, with a room to act through.

    Attributes:
        machine: decides. May be read from anywhere.
        generation: what picks read: one attribute, replaced whole.
        admission: where RPCs wait while all members are full.
        bus: the listeners.
        norms: what the methods called through the pool usually take.
        budget: how many RPCs may be sent again.
        halt: called before an RPC that needs no pick begins; waits while the pool stands still, see `Standstill`.
    """

    __slots__ = (
        "_builder",
        "_clock",
        "_driver",
        "_errors",
        "_hedges",
        "_name",
        "_policy",
        "_retries",
        "_rng",
        "_room",
        "_rotation",
        "_sample_rate",
        "_strategy",
        "_unopened",
        "_wanted_after",
        "admission",
        "budget",
        "bus",
        "generation",
        "halt",
        "machine",
        "norms",
    )

    def __init__(
        self,
        room: Room,
        policy: Policy,
        strategy: Strategy,
        *,
        clock: Clock,
        rng: random.Random,
        log: Callable[[Event], object],
        listeners: tuple[Listener, ...],
        sample_rate: int,
    ) -> None:
        self._room = room
        self._policy = policy
        self._strategy = strategy
        self._name = policy.name
        self._clock = clock
        self._sample_rate = sample_rate
        self._errors = Tally()
        self.norms = Norms()
        self.bus = Bus(
            policy.name,
            listeners,
            log=log,
            on_error=lambda listener, error: room.complain(
                f"listener {_name(listener)} raised; it is told all the same", error
            ),
        )
        self._begin(rng)

    def _begin(self, rng: random.Random) -> None:
        room, policy, strategy, clock = self._room, self._policy, self._strategy, self._clock
        self._wanted_after = float("-inf")
        self.halt: Callable[[], object] = go_on
        self.admission = Admission(
            policy.cap, policy.max_waiting, clock=clock, here=room.is_here, call=room.wake, on_line=self._on_line
        )
        self.machine = Machine(policy, rng, self.admission.stats)
        self._rng = rng
        self.budget = Budget(self._load, clock)
        self._retries = Tally()
        self._hedges = Tally()
        self._rotation = itertools.count().__next__
        self._builder = GenerationBuilder(
            strategy,
            rng=rng,
            clock=clock,
            not_connected=room.not_connected,
            no_channel=room.no_channel,
            on_error=lambda problem: self.bus.emit(
                events.StrategyFailed(pool=policy.name, strategy=type(strategy).__name__, error=problem)
            ),
        )
        self._driver = Driver(self.machine, clock=clock, perform=self._perform, on_error=self._on_error)
        self._unopened = Generation((), self._open_and_pick, self._open_and_pick_connected)
        self.generation = self._unopened

    def reset(self, rng: random.Random) -> None:
        """Become as new, without a member, but for the listeners; a closed pool stays closed.

        For when all that there was is of no use any more, and nothing of it may be used or closed. What is under way
        further up the stack comes to nothing, and those who wait for an answer get none.
        """
        closed = self.machine.closed
        self._driver.discard()
        for member in list(self.machine.slots):
            member.retire()
        self.machine.slots.clear()
        self._begin(rng)
        if closed:
            self.post(Close())
            self.pump()

    def hold(self, token: object) -> bool:
        """Let nothing be decided until `release`; False if someone is at it. Never waits."""
        return self._driver.hold(token)

    def release(self, token: object) -> None:
        """Let things be decided again, if that was held up with this token; what has come in waits for a `pump`."""
        self._driver.release(token)

    @property
    def keyed(self) -> bool:
        """Whether members are picked by a key."""
        return self._builder.keyed

    # --- the hot path

    def attempt(self, lease: Lease, member: Member | None = None) -> bool:
        """Take the lease for an RPC; False if every member is full, or if others wait in line.

        Never blocks, but for the very first use of a pool.

        Arguments:
            member: the one to take it on unless it is retired or full; None: whichever the strategy picks.
        """
        while True:
            generation = self.generation
            picked = member or generation.pick()
            if lease.take(picked, self._clock):
                return True
            if not picked.retired:
                return not self.admission.shut and any(lease.take(other, self._clock) for other in self._others())
            # It left between the pick and the lease, so a newer generation has been published already.
            if member is None and self.generation is generation:
                # It has not: an interrupt must have struck the publishing.
                self._room.tell(Republish())
                if self.machine.closed:
                    # Which publishes no more.
                    self._room.refuse()
            member = None

    def course(self, plan: Plan) -> Course:
        """Return the course of one more RPC that has failed."""
        return Course(plan, self.budget.take, self._rng.uniform)

    def has_others(self, tried: Collection[Member]) -> bool:
        """Say whether there is a connected member to pick that is not among `tried`."""
        return any(member not in tried for member in self.generation.members)

    def elsewhere(self, lease: Lease, tried: Collection[Member], *, only: bool = False) -> bool:
        """Take the lease on a member that is not among `tried`, if there is one; else as `attempt`.

        Arguments:
            only: or else not at all; False then.
        """
        # As the strategy has it, if it can be had: it may know of two members which one is slow.
        for _ in range(2):
            picked = self.generation.pick()
            if picked not in tried and lease.take(picked, self._clock):
                return True
        if not self.admission.shut:
            for other in self._others():
                if other not in tried and lease.take(other, self._clock):
                    return True
        return not only and self.attempt(lease)

    def retried(self, method: str, attempt: int, kind: str, code: str | None) -> None:
        """Count an RPC that is sent once more, and tell the listeners; see `events.Retried`."""
        (self._hedges if kind == "hedge" else self._retries).add()
        self.bus.emit(events.Retried(pool=self._name, method=method, attempt=attempt, kind=kind, code=code))

    def _load(self) -> tuple[int, int]:
        begun = self.machine.members.past_calls + sum(member.picks for member in list(self.machine.slots))
        return begun, self.machine.in_flight

    def spare(self, tried: Collection[Member] = ()) -> Member | None:
        """Return a member that has room at this moment; None if there is none, or if others wait in line.

        Arguments:
            tried: not one of these.
        """
        if self.admission.shut:
            return None
        found = (member for member in self._others() if len(member.leases) < member.limit and member not in tried)
        return next(found, None)

    def _others(self) -> Iterator[Member]:
        """All who may be picked, each time beginning with another one."""
        members = self.generation.eligible
        begin = self._rotation() % len(members) if members else 0
        return itertools.chain(members[begin:], members[:begin])

    def _on_line(self) -> None:
        self._driver.post(Full())
        self._room.wake()

    def measure(self) -> None:
        """Have the load looked at, if the pool's size depends on it."""
        if self.machine.policy.band is not None:
            self._driver.post(Measure())

    def _idle(self, member: Member) -> None:
        """Note that a retired member's last RPC has ended; no more, for this may be any thread in the middle of it."""
        self._driver.post(Drained(member))
        self._room.wake()

    def _trouble(self, member: Member) -> None:
        """Note that too many RPCs in a row have failed; no more, as in `_idle`."""
        # Of one that is not connected no more than that is to be known.
        slot = self.machine.slots.get(member)
        if slot is not None and slot.phase is Phase.READY:
            self._driver.post(Troubled(member))
            self._room.wake()

    def _given(self, member: Member) -> None:
        """Note that a member on probation has been given its RPC; no more, as in `_idle`."""
        self._driver.post(Probed(member))
        self._room.wake()

    def _not_quite(
        self,
        pick: Callable[[], Member],
        ready: tuple[Member, ...],
        probes: tuple[Member, ...],
        warming: dict[Member, float],
    ) -> Callable[[], Member]:
        """Return a pick for as long as some members are not to have their full share."""
        seconds = self.machine.policy.slow_start
        # Where a key says who is to serve an RPC, it had better be who served the last one.
        if seconds is not None and not self._builder.keyed:
            pick = gradually(pick, ready, warming, seconds, rng=self._rng, clock=self._clock)
        if probes:
            self.admission.lend(probes)
            pick = once_each(pick, probes, self._given)
        return pick

    def _open_and_pick(self) -> Member:
        return self._open().pick()

    def _open_and_pick_connected(self) -> Member:
        return self._open().pick_connected()

    def _open(self) -> Generation:
        self._room.on_first_use()
        generation = self.generation
        if generation is self._unopened:
            # Only a listener can get here: it is told that the pool opens, and makes an RPC from within.
            self._room.no_channel()
        return generation

    def _ask_for_one(self, pick: Callable[[], Member]) -> Callable[[], Member]:
        """Return a pick that first asks for a member that is worth picking, and picks from what comes of it."""

        def ask_and_pick() -> Member:
            before = self.generation
            # While all is down every RPC comes by here, and the answer changes but once per `backoff_min`.
            now = self._clock()
            if now >= max(self._wanted_after, self.machine.members.next_favour):
                self._wanted_after = now + self.machine.policy.backoff_min / 10
                self._room.want()
            after = self.generation
            return pick() if after is before else after.pick()

        return ask_and_pick

    def _refuse(self) -> Member:
        self._room.refuse()

    # --- messages in, effects out

    def post(self, message: Input) -> None:
        """Leave a message for the next `pump`. Safe from anywhere."""
        self._driver.post(message)

    def pump(self) -> None:
        """Work the inbox off, and what the line is to be told, unless another thread is at it already."""
        self._driver.pump()
        self.admission.serve()

    def _perform(self, effect: Effect) -> None:
        room, driver = self._room, self._driver
        match effect:
            case Publish(ready, fallback, closed, down, probes, warming):
                if closed:
                    # First, for nobody makes up for it if Ctrl-C strikes in between.
                    self.admission.close()
                    self.generation = Generation((), self._refuse, self._refuse)
                else:
                    generation = self._builder.build(ready, fallback, self._ask_for_one if down else None, probes)
                    if self._driver is not driver:
                        # A listener, told of a mistake of the strategy's, has forked; in the child this is old news.
                        return
                    self.admission.adopt(generation.eligible)
                    if probes or warming:
                        generation.pick = self._not_quite(generation.pick, ready, probes, dict(warming))
                    generation.pick = self.bus.sampled(generation.pick, self._sample_rate)
                    generation.pick_connected = self.bus.sampled(generation.pick_connected, self._sample_rate)
                    self.generation = generation
                room.published()
            case Emit(event):
                self.bus.emit(event)
            case Retire(member):
                self.admission.retire(member)
            case OpenChannels(members):
                self._build(members)
            case Connect(member):
                room.connect(member)
            case Explain(member):
                # A question that could not be asked must be answered too, or it is never asked again.
                try:
                    room.explain(member)
                except BaseException as error:
                    self.post(Explained(member, f"could not be asked: {type(error).__name__}"))
                    raise
            case Ping(member, timeout):
                try:
                    room.ping(member, timeout)
                except BaseException:
                    # Which says nothing about the server.
                    self.post(Pinged(member, 0.0, None))
                    raise
            case Watch(member):
                room.watch(member)
            case Prime(member):
                try:
                    room.prime(member)
                except BaseException as error:
                    self.post(Primed(member, f"the primer could not be run: {type(error).__name__}"))
                    raise
            case CloseChannel(member):
                room.close_channel(member)
            case Report(state):
                room.report(state)
            case Answer(ticket, outcome):  # pragma: no branch
                _answer(ticket, outcome)

    def _build(self, members: tuple[Member, ...]) -> None:
        driver = self._driver
        built: list[Member] = []
        failed: list[tuple[Member, str]] = []
        try:
            for member in members:
                member.on_idle = self._idle
                member.on_room = self.admission.room
                member.on_trouble = self._trouble
                try:
                    self._room.build(member)
                except Exception as error:
                    # The type only; the message could hold a secret: credentials are made by the user's own code.
                    failed.append((member, f"its channel could not be made: {type(error).__name__}"))
                    what = f"the channel of member {member.id} to {member.endpoint} could not be made"
                    self._room.complain(what, error)
                else:
                    built.append(member)
                if self._driver is not driver:
                    # As above: a factory of credentials has.
                    break
        finally:
            # Also when Ctrl-C strikes: whoever waits for the pool to open waits for this answer.
            done = {*built, *(member for member, _ in failed)}
            failed += [(member, "making its channel was interrupted") for member in members if member not in done]
            if self._driver is driver:
                self.post(Built(tuple(built), tuple(failed)))

    def _on_error(self, error: BaseException) -> None:
        self._errors.add()
        self._room.complain("background work failed and goes on", error)
        self.bus.emit(events.MaintenanceFailed(pool=self._name, error=type(error).__name__))

    def maintenance_failed(self, error: BaseException) -> None:
        """Take note of an exception in the room's own background work."""
        self._on_error(error)

    # --- what users see

    def add_listener(self, listener: Listener) -> None:
        """Tell `listener` every event from now on."""
        self.bus.add(listener)
        self._rewrap()

    def remove_listener(self, listener: Listener) -> None:
        """Tell `listener` no more; harmless if it was not told."""
        self.bus.remove(listener)
        self._rewrap()

    def _rewrap(self) -> None:
        # Picks are wrapped, or not, when they are published: not before the pool is open, for the first one opens it.
        if self.generation is not self._unopened:
            self._room.tell(Republish())

    def status(self) -> PoolStatus:
        """Return the pool in one line."""
        return snapshot.status(self.machine)

    def stats(self) -> PoolStats:
        """Return totals and members."""
        return snapshot.stats(
            self.machine,
            self.admission.stats(),
            self._clock(),
            listener_errors=self.bus.errors,
            maintenance_errors=self._errors.value(),
            again=SentAgain(self._retries.value(), self._hedges.value(), self.budget.refused.value()),
        )

    def describe(self) -> str:
        """Return the pool's state in words, for an error message."""
        return snapshot.describe(self.machine)


def go_on() -> None:
    """Do nothing: what `halt` is while nobody stands still."""


def _name(listener: Listener) -> str:
    # Not its repr: a listener may be an object of the user's, and its fields are nobody's business.
    name: str = getattr(listener, "__qualname__", type(listener).__qualname__)
    return name


def _answer(ticket: Any, outcome: int | Exception) -> None:
    """Settle a ticket: a future of either kind, or None where nobody waits. One whose waiter gave up stays as it is."""
    if ticket is None or ticket.done():
        return
    if isinstance(outcome, Exception):
        ticket.set_exception(outcome)
    else:
        ticket.set_result(outcome)
