"""Whatever happens, in whatever order: the state machine under Hypothesis, with a clock of its own."""

from __future__ import annotations

from concurrent.futures import Future

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from grpcpool import events
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.messages import Abort, Close, Open, Republish, Resize, Tick, Wanted
from grpcpool.core.slot import Phase
from grpcpool.errors import PoolClosed, ScalingError

from .world import World

MOST = 12


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
    )
    def make(
        self, size: int, endpoints: tuple[str, ...], attempts: int, ping: float | None, report: float | None, seed: int
    ) -> None:
        self.tickets: list[Future[int]] = []
        self.world = World(
            *endpoints,
            seed=seed,
            size=max(size, len(endpoints)),
            max_reconnect_attempts=attempts,
            ping_interval=ping,
            telemetry_interval=report,
        )

    def member(self, data: st.DataObject, among: object) -> object:
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

    @rule(data=st.data(), error=st.sampled_from([None, "refused"]))
    def explain(self, data: st.DataObject, error: str | None) -> None:
        if self.world.questions:
            self.world.answer(self.member(data, self.world.questions), error)

    @rule(data=st.data(), error=st.sampled_from([None, "no answer"]))
    def pong(self, data: st.DataObject, error: str | None) -> None:
        if self.world.pings:
            self.world.pong(self.member(data, self.world.pings), error)

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

    @rule()
    def close(self) -> None:
        self.world.tell(Close())

    @rule()
    def abort(self) -> None:
        self.world.tell(Abort())

    @invariant()
    def bounds_and_answers(self) -> None:
        if not hasattr(self, "world"):
            return
        machine = self.world.machine
        assert 1 <= machine.size <= max(MOST, 4)
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
        assert world.machine.members.past_calls == sum(member.picks for member in world.ever)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
