"""Whatever happens, in whatever order: the state machine under Hypothesis, with a clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from grpcpool import events
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.member import Member
from grpcpool.core.messages import (
    Abort,
    Close,
    Drained,
    Input,
    Measure,
    Observed,
    Open,
    Primed,
    Probed,
    Republish,
    Resize,
    Served,
    Tick,
    Troubled,
    Wanted,
)
from grpcpool.core.slot import Phase
from grpcpool.errors import PoolClosed, ScalingError

from .world import World

MOST = 12
UNASKED: list[Callable[[Member], Input]] = [
    lambda member: Primed(member, None),
    lambda member: Primed(member, "x"),
    Drained,
    Troubled,
    Probed,
    lambda member: Served(member, False),
]


class Pool(RuleBasedStateMachine):
    """Rules are what the world may do; what must always hold is `World.check`, after each of them."""

    leases = Bundle("leases")

    @initialize(
        size=st.integers(1, 4),
        endpoints=st.sampled_from([("a",), ("a", "b"), ("a", "b", "c")]),
        attempts=st.integers(1, 3),
        ping=st.sampled_from([None, 5.0]),
        report=st.sampled_from([None, 5.0]),
        seed=st.integers(0, 10),
        elastic=st.sampled_from([None, (0.0, 2.0), (1.0, 3.0), (0.9, 1.0)]),
        idle=st.sampled_from([None, 2.0, 50.0]),
        lifetime=st.sampled_from([None, 3.0, 100.0]),
        primed=st.booleans(),
        drain=st.sampled_from([None, 2.0]),
        row=st.sampled_from([None, 1, 3]),
        rate=st.sampled_from([None, 0.8]),
        silence=st.sampled_from([None, 1.0]),
        slow=st.sampled_from([None, 5.0]),
        watched=st.booleans(),
        # Nearly all that is of interest happens to a pool that is open and connected.
        begun=st.sampled_from([True, True, True, False]),
    )
    def make(
        self,
        size: int,
        endpoints: tuple[str, ...],
        attempts: int,
        ping: float | None,
        report: float | None,
        seed: int,
        elastic: tuple[float, float] | None,
        idle: float | None,
        lifetime: float | None,
        primed: bool,
        drain: float | None,
        row: int | None,
        rate: float | None,
        silence: float | None,
        slow: float | None,
        watched: bool,
        begun: bool,
    ) -> None:
        self.tickets: list[Future[int]] = []
        self.size = max(size, len(endpoints))
        self.world = World(
            *endpoints,
            seed=seed,
            size=self.size,
            bounds=(self.size, MOST),
            band=elastic,
            scale_down_interval=2.0,
            max_idle=idle,
            max_lifetime=lifetime,
            primed=primed,
            drain_timeout=drain,
            max_consecutive_failures=row,
            min_success_rate=rate,
            outlier_detection=row is not None,
            unresponsive_after=silence,
            slow_start=slow,
            watched=watched,
            max_reconnect_attempts=attempts,
            ping_interval=ping,
            telemetry_interval=report,
        )
        if begun:
            self.open()
            self.all_goes_well(0)

    def member(self, data: st.DataObject, among: Iterable[Member]) -> Member:
        return data.draw(st.sampled_from(sorted(among, key=lambda member: member.id)))

    @rule()
    def open(self) -> None:
        self.tickets.append(self.world.ask(Open))

    @rule(data=st.data(), state=st.sampled_from([s for s in Connectivity if s is not Connectivity.SHUTDOWN]))
    def observe(self, data: st.DataObject, state: Connectivity) -> None:
        if self.world.channels:
            self.world.observe(self.member(data, self.world.channels), state)

    @rule(data=st.data())
    def shut_from_outside(self, data: st.DataObject) -> None:
        if self.world.channels:
            self.world.observe(self.member(data, self.world.channels), Connectivity.SHUTDOWN)

    @rule()
    def connect_all(self) -> None:
        self.world.connect_all()

    @rule(appointments=st.integers(0, 6))
    def all_goes_well(self, appointments: int) -> None:
        """Whatever is due is done in time, every connection comes about, and every primer returns."""
        for _ in range(appointments):
            self.keep_the_appointment()
            self.connect_all()
            self.prime_all()
        self.connect_all()
        self.prime_all()

    @rule(data=st.data(), error=st.sampled_from([None, "refused"]))
    def explain(self, data: st.DataObject, error: str | None) -> None:
        if self.world.questions:
            self.world.answer(self.member(data, self.world.questions), error)

    @rule(data=st.data(), error=st.sampled_from([None, "no answer"]), duration=st.sampled_from([0.01, 2.0]))
    def pong(self, data: st.DataObject, error: str | None, duration: float) -> None:
        if self.world.pings:
            self.world.pong(self.member(data, self.world.pings), error, duration)

    @rule(data=st.data(), count=st.integers(1, 6), fast=st.booleans())
    def fail_in_a_row(self, data: st.DataObject, count: int, fast: bool) -> None:
        """One does badly while all others do well."""
        if self.world.ready:
            bad = self.member(data, self.world.ready)
            for member in self.world.ready:
                self.world.call(member, "failed" if member is bad else "answered", count)
            if not fast:
                self.world.clock.advance(0.5)
                self.world.tell(Tick())

    @rule(count=st.integers(1, 6))
    def all_fail(self, count: int) -> None:
        for _ in range(count):
            for member in self.world.ready:
                self.world.call(member, "failed")

    @rule(end=st.sampled_from(["answered", "failed", "dropped", "nothing", "running"]))
    def probe(self, end: str) -> None:
        if self.world.probes:
            member = self.world.probe()
            if end == "running":
                self.world.lease(member)
            elif end != "nothing":
                self.world.call(member, end)

    @rule(data=st.data(), serving=st.booleans())
    def serve(self, data: st.DataObject, serving: bool) -> None:
        if self.world.watched:
            self.world.tell(Served(self.member(data, set(self.world.watched)), serving, "NOT_SERVING"))

    @rule(appointments=st.integers(1, 8), pinged=st.booleans())
    def let_time_pass(self, appointments: int, pinged: bool) -> None:
        """Every appointment is kept, and all else goes well."""
        for _ in range(appointments):
            self.keep_the_appointment()
            for member in list(self.world.pings) if pinged else []:
                self.world.pong(member)

    @rule(data=st.data(), error=st.sampled_from([None, "raised"]))
    def prime(self, data: st.DataObject, error: str | None) -> None:
        if self.world.primings:
            self.world.prime(self.member(data, self.world.primings), error)

    @rule()
    def prime_all(self) -> None:
        self.world.prime_all()

    @rule(data=st.data(), message=st.sampled_from(UNASKED))
    def tell_what_nobody_asked(self, data: st.DataObject, message: Callable[[Member], Input]) -> None:
        unasked = set(self.world.ever) - set(self.world.primings)
        if unasked:
            self.world.tell(message(self.member(data, unasked)))

    @rule()
    def measure(self) -> None:
        self.world.measure()

    @rule(seconds=st.sampled_from([2.5, 12.0]))
    def measure_for_a_while(self, seconds: float) -> None:
        self.world.measure(seconds, every=1.25)

    @rule(waiting=st.sampled_from([0, 1, 7]))
    def wait_in_line(self, waiting: int) -> None:
        self.world.wait_in_line(waiting)

    @rule(target=leases, count=st.integers(2, 6))
    def start_many(self, count: int) -> object:
        return multiple(*(self.world.run(count) if self.world.ready else ()))

    @rule(data=st.data(), messages=st.lists(st.sampled_from(["ready", "lost", "measure", "shrink"]), max_size=5))
    def all_in_one_moment(self, data: st.DataObject, messages: list[str]) -> None:
        """Several things happen before the machine has looked at any of them."""
        world = self.world
        for what in messages:
            if what in ("ready", "lost") and world.channels:
                state = Connectivity.READY if what == "ready" else Connectivity.TRANSIENT_FAILURE
                member = self.member(data, world.channels)
                world.channels[member] = state
                world.driver.post(Observed(member, state))
            elif what == "measure":
                world.driver.post(Measure())
            elif what == "shrink" and world.machine.opened is not None:
                world.driver.post(Resize(None, by=-1))
        world.driver.pump()
        world.check()

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 4.0, 60.0, 1e6]))
    def pass_time(self, seconds: float) -> None:
        self.world.clock.advance(seconds)
        self.world.tell(Tick())

    @rule()
    def keep_the_appointment(self) -> None:
        due = self.world.machine.wake_at
        if due is not None:
            self.world.clock.now = max(due, self.world.clock.now)
            self.world.tell(Tick())

    @rule(by=st.integers(-4, 4))
    def scale(self, by: int) -> None:
        if self.world.machine.opened is not None and self.world.machine.size + by <= MOST:
            self.tickets.append(self.world.ask(Resize, by=by))

    @rule(to=st.integers(-1, MOST))
    def resize(self, to: int) -> None:
        if self.world.machine.opened is not None:
            self.tickets.append(self.world.ask(Resize, to=to))

    @rule(target=leases, data=st.data())
    def start_rpc(self, data: st.DataObject) -> object:
        members = self.world.ready or self.world.fallback
        return self.world.lease(self.member(data, members)) if members else None

    @rule(lease=consumes(leases))
    def end_rpc(self, lease: object) -> None:
        if lease is not None:
            self.world.end(lease)

    @rule(which=st.sampled_from("abc"))
    def break_the_factory(self, which: str) -> None:
        self.world.unbuildable.add(which)

    @rule()
    def mend_the_factory(self) -> None:
        self.world.unbuildable.clear()

    @rule()
    def want(self) -> None:
        self.world.tell(Wanted())

    @rule()
    def republish(self) -> None:
        self.world.tell(Republish())

    @rule(sure=st.sampled_from([False] * 9 + [True]))
    def close(self, sure: bool) -> None:
        if sure:
            self.world.tell(Close())

    @rule()
    def abort(self) -> None:
        self.world.tell(Abort())

    @invariant()
    def health(self) -> None:
        if not hasattr(self, "world") or self.world.machine.closed:
            return
        machine = self.world.machine
        out = [slot for slot in machine.slots.values() if slot.ejection is not None and slot.phase is Phase.READY]
        for slot in out:
            # Nobody is forgotten outside: something is due about it, or under way.
            due = machine.health.ejections.due(slot)
            assert due is not None or slot.busy or slot.member in self.world.probes
            assert due is None or machine.wake_at is not None
            assert slot.member not in [member for member, _ in self.world.warming]
        told = self.world.told(events.Ejected)
        assert len(told) == machine.health.ejections.count
        assert all(event.duration <= 300 for event in told)

    @invariant()
    def bounds_and_answers(self) -> None:
        if not hasattr(self, "world"):
            return
        machine = self.world.machine
        assert 1 <= machine.size <= max(MOST, 4)
        replacing = [slot for slot in machine.slots.values() if slot.replaces is not None and slot.joining]
        assert sum(slot.phase is not Phase.DRAINING for slot in replacing) <= 1
        for ticket in self.tickets:
            if ticket.done():
                error = ticket.exception(0)
                assert error is None or isinstance(error, (ScalingError, PoolClosed))

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        # Every resize comes to an end in its time, whatever has become of its members.
        for _ in range(50):
            if world.machine.wake_at is None or all(ticket.done() for ticket in self.tickets):
                break
            world.clock.now = max(world.machine.wake_at, world.clock.now)
            world.tell(Tick())
            for member in list(world.questions):
                world.answer(member, "refused")
        assert all(ticket.done() for ticket in self.tickets)
        # And every member ends: ready, failed, or closed with its channel.
        world.tell(Close())
        for lease in list(world.leases):
            world.end(lease)
        assert world.channels == {}
        assert world.machine.slots == {}
        assert len(world.told(events.Closed)) == (world.machine.opened is not None)
        assert not any(slot.phase is Phase.READY for slot in world.machine.slots.values())
        assert len(world.told(events.Recycled)) == world.machine.lifetimes.recycled
        assert len(world.told(events.Drained)) == world.machine.members.drained == len(world.ever)
        assert world.machine.wake_at is None
        assert world.machine.members._primers == {}
        scaled = [event for event in world.events if isinstance(event, events.Scaling)]
        change = sum(e.succeeded if isinstance(e, events.ScaledUp) else -e.succeeded for e in scaled)
        assert change == world.machine.sizing.grown - world.machine.sizing.shrunk == world.machine.size - self.size
        assert world.machine.members.past_calls == sum(member.picks for member in world.ever)


TestPool = Pool.TestCase
# With coverage measured, on a busy machine, it takes longer than a test usually may.
TestPool.pytestmark = [pytest.mark.timeout(240)]
TestPool.settings = settings(max_examples=200, stateful_step_count=40)
