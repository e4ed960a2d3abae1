"""What surrounds the core, without grpc: a world for the state machine, and a room for the engine."""

from __future__ import annotations

import random
from concurrent.futures import Future
from typing import Any, NoReturn

from grpcpool import events
from grpcpool.core.admission import LineStats
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.driver import Driver
from grpcpool.core.engine import Engine
from grpcpool.core.lease import Lease
from grpcpool.core.machine import Machine
from grpcpool.core.member import Member
from grpcpool.core.messages import (
    Answer,
    Built,
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
    Observed,
    Open,
    OpenChannels,
    Ping,
    Pinged,
    Prime,
    Primed,
    Probed,
    Publish,
    Report,
    Resize,
    Retire,
    Tick,
    Troubled,
    Wanted,
    Watch,
)
from grpcpool.core.slot import Phase, Policy
from grpcpool.endpoint import Endpoint
from grpcpool.errors import PoolClosed
from grpcpool.strategies import RoundRobin
from grpcpool.testing import FakeClock

READY = Connectivity.READY
FAILED = Connectivity.TRANSIENT_FAILURE

# What is no bad news about a connection.
OWN_DOING = (Tick, Measure, Full, Resize, Drained, Built)


class World:
    """Stands in for a room: grpc's channels are entries in a table here, and time is a number.

    It carries out the effects, keeps the books, and checks what must always hold.
    """

    def __init__(self, *targets: str, seed: int = 0, **policy: object) -> None:
        fields = {"name": "world", "size": 3, "telemetry_interval": None, **policy}
        endpoints = tuple(Endpoint(target) for target in targets or ("a",))
        self.clock = FakeClock(100.0)
        self.line = LineStats()
        settings = Policy(endpoints=endpoints, **fields)  # type: ignore[arg-type]
        self.machine = Machine(settings, random.Random(seed), lambda: self.line)
        self.driver = Driver(self.machine, clock=self.clock, perform=self._perform, on_error=self._fail)
        self.channels: dict[Member, Connectivity] = {}
        self.unbuildable: set[str] = set()
        self.ever: list[Member] = []
        self.closed: list[Member] = []
        self.connects: list[Member] = []
        self.questions: list[Member] = []
        self.pings: list[Member] = []
        self.timeouts: dict[Member, float | None] = {}
        self.watched: list[Member] = []
        self.probes: tuple[Member, ...] = ()
        self.warming: tuple[tuple[Member, float], ...] = ()
        self.primings: list[Member] = []
        self.ready: tuple[Member, ...] = ()
        self.fallback: tuple[Member, ...] = ()
        self.shut = self.hopeless = False
        self.reports: list[Connectivity] = []
        self.events: list[events.Event] = []
        self.leases: list[Lease] = []

    # --- what may happen

    def tell(self, message: Input) -> None:
        # Without those that were picked only because too few others were there.
        before = [member for member in self.ready if self.machine.slots[member].usable]
        self.driver.post(message)
        self.driver.pump()
        self.check()
        if isinstance(message, OWN_DOING) or getattr(message, "state", None) is READY:
            assert self.ready or not before or self.machine.closed, "the pool itself took out all that were connected"

    def observe(self, member: Member, state: Connectivity) -> None:
        self.channels[member] = state
        self.tell(Observed(member, state))

    def connect_all(self) -> None:
        for member in list(self.channels):
            # One that connects may be the reason for another one to go.
            if member in self.channels:
                self.observe(member, Connectivity.READY)

    def prime_all(self) -> None:
        for member in list(self.primings):
            if member in self.primings:
                self.prime(member)

    def attempt(self, member: Member) -> None:
        """Let the time come for the member's next attempt, and for asking how it went."""
        while member not in self.questions:
            self.clock.now = self.machine.wake_at
            self.tell(Tick())

    def answer(self, member: Member, error: str | None) -> None:
        self.questions.remove(member)
        self.tell(Explained(member, error))

    def pong(self, member: Member, error: str | None = None, duration: float = 0.01) -> None:
        self.pings.remove(member)
        self.tell(Pinged(member, duration, error))

    def prime(self, member: Member, error: str | None = None) -> None:
        """The member's primer returns, or fails."""
        self.primings.remove(member)
        self.tell(Primed(member, error))

    def fail(self, member: Member, error: str = "refused") -> None:
        """The member's attempt to connect fails, and the reason is found out."""
        self.observe(member, Connectivity.TRANSIENT_FAILURE)
        if member in self.questions:
            self.answer(member, error)

    def lease(self, member: Member) -> Lease:
        member.on_idle = lambda idle: self.driver.post(Drained(idle))
        member.on_trouble = lambda troubled: self.driver.post(Troubled(troubled))
        lease = Lease.on(member, self.clock())
        self.leases.append(lease)
        return lease

    def end(self, lease: Lease, how: str = "answered") -> None:
        """The RPC ends: answered, failed, late (its deadline has passed), refused (by the application) or dropped."""
        self.leases.remove(lease)
        now = self.clock()
        match how:
            case "answered":
                lease.succeed(now)
            case "dropped":
                lease.release(now)
            case _:
                lease.fail(now, blame=how != "refused", late=how == "late")
        self.driver.pump()
        self.check()

    def call(self, member: Member, how: str = "answered", times: int = 1) -> None:
        """So many RPCs run on the member, one after the other, and end like that."""
        for _ in range(times):
            self.end(self.lease(member), how)

    def probe(self) -> Member:
        """Give out the one RPC to the member that is tried again, and return that member."""
        (member, *_) = self.probes
        self.tell(Probed(member))
        assert member not in self.probes
        return member

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass, and keep every appointment; nobody answers anything meanwhile."""
        end = self.clock.now + seconds
        while self.machine.wake_at is not None and self.machine.wake_at <= end:
            # An appointment that stays where it is would be a busy loop in a room.
            before = self.machine.wake_at
            self.clock.now = max(before, self.clock.now)
            self.tell(Tick())
            assert self.machine.wake_at != before, "an appointment was not kept"
        self.clock.now = end

    def ask(self, message: type, **fields: object) -> Future[int]:
        ticket: Future[int] = Future()
        self.tell(message(ticket, **fields))
        return ticket

    def wait_in_line(self, waiting: int) -> None:
        """So many RPCs wait from now on; the machine is told if a line forms."""
        formed = waiting and not self.line.waiting
        self.line = self.line._replace(waiting=waiting)
        if formed:
            self.tell(Full())

    def measure(self, seconds: float = 0.0, *, every: float = 0.5) -> None:
        """Let so much time pass, with readings of the load all along; or take one now."""
        end = self.clock.now + seconds
        while True:
            self.tell(Measure())
            if self.clock.now >= end:
                return
            self.clock.now = min(self.clock.now + every, end)
            self.tell(Tick())

    def run(self, count: int, member: Member | None = None) -> list[Lease]:
        """Begin so many RPCs, each on the member that has least to do, or on this one."""
        return [self.lease(member or min(self.ready, key=lambda each: each.in_flight)) for _ in range(count)]

    def newest(self) -> Member:
        """The member that was made last."""
        return self.ever[-1]

    # --- what was seen

    def told(self, kind: type[events.Event]) -> list[events.Event]:
        return [event for event in self.events if type(event) is kind]

    def phases(self) -> list[str]:
        return [slot.phase.value for slot in self.machine.slots.values()]

    # --- what the effects do

    def _perform(self, effect: Effect) -> None:
        assert not self._silent(effect), f"after the end: {effect}"
        match effect:
            case OpenChannels(members):
                assert not self.machine.closed, "a member was made after close"
                good = tuple(member for member in members if member.endpoint not in self.unbuildable)
                bad = tuple((member, "cannot be made") for member in members if member.endpoint in self.unbuildable)
                for member in good:
                    assert member not in self.channels
                    self.channels[member] = Connectivity.IDLE
                self.ever.extend(member for member in members if member not in self.ever)
                self.driver.post(Built(good, bad))
            case Connect(member):
                assert member in self.channels
                self.connects.append(member)
            case Explain(member):
                assert member in self.channels
                self.questions.append(member)
            case Prime(member):
                assert member in self.channels
                assert member not in self.primings, "two primers at once on one channel"
                self.primings.append(member)
            case Ping(member, timeout):
                assert member in self.channels
                assert member not in self.pings, "two pings at once on one channel"
                self.pings.append(member)
                self.timeouts[member] = timeout
            case Watch(member):
                assert member in self.channels
                self.watched.append(member)
            case Publish(ready, fallback, closed, down, probes, warming):
                self.ready, self.fallback, self.shut, self.hopeless = ready, fallback, closed, down
                self.probes, self.warming = probes, warming
            case Retire(member):
                assert member not in self.ready, "retired while it could still be picked"
                assert member not in self.fallback, "retired while it could still be picked"
                if member.retire():
                    self.driver.post(Drained(member))
            case CloseChannel(member):
                del self.channels[member]
                self.closed.append(member)
                if member in self.primings:
                    self.primings.remove(member)
            case Report(state):
                self.reports.append(state)
            case Emit(event):
                self.events.append(event)
            case Answer(ticket, outcome):
                if ticket is None:
                    return
                assert not ticket.done(), "a ticket was answered twice"
                if isinstance(outcome, Exception):
                    ticket.set_exception(outcome)
                else:
                    ticket.set_result(outcome)

    def _silent(self, effect: Effect) -> bool:
        return bool(self.told(events.Closed)) and not isinstance(effect, Answer)

    def _fail(self, error: BaseException) -> None:
        raise AssertionError("the machine or an effect failed") from error

    # --- what must always hold

    def check(self) -> None:
        machine = self.machine
        slots = machine.slots
        connected = [slot for slot in slots.values() if slot.phase is Phase.READY]
        fit = [slot for slot in connected if slot.ejection is None and slot.serves]
        if 2 * len(fit) < machine.size and len(fit) < len(connected):
            fit = [slot for slot in connected if slot.serves] or connected
        else:
            fit = [slot for slot in fit if slot.condition.held is None]
        assert self.ready == tuple(slot.member for slot in fit), "a generation holds just the fit members"
        asked = [slot for slot in connected if slot.condition.held is not None]
        assert self.ready or asked or not connected, "nobody is picked although somebody is connected"
        assert all(slots[member].ejection is not None for member in self.probes)
        assert all(member in self.ready for member, _ in self.warming)
        assert not any(member.retired for member in (*self.ready, *self.fallback))
        assert not (self.ready and self.fallback)
        assert all(member in self.channels for member in (*self.ready, *self.fallback))
        # Every channel that was made belongs to a member that is still there; every other one was closed.
        assert set(self.channels) == {member for member, slot in slots.items() if slot.built}
        assert not set(self.closed) & set(slots)
        settled = [s for s in slots.values() if s.phase is not Phase.DRAINING and not s.joining]
        if machine.closed:
            assert self.shut or machine.opened is None
            assert not settled
        elif machine.opened is not None:
            assert machine.size >= 1
            # While a resize upwards runs, those of its members that have connected already are beyond the size.
            assert len(settled) == machine.sizing.expected
            assert machine.sizing.least <= machine.size <= machine.sizing.most
        for slot in slots.values():
            if slot.phase is Phase.DOWN:
                # Whoever is down is being asked about, or has an appointment: nobody is forgotten.
                assert slot.busy or slot.due is not None, slot
            if slot.phase is Phase.PRIMING:
                assert slot.due is not None, slot
            if slot.phase is Phase.DRAINING:
                assert (slot.due is None) == (machine.policy.drain_timeout is None), slot
            if slot.replaces is not None and slot.joining and slot.phase is not Phase.DRAINING:
                assert slot.replaces.member.endpoint == slot.member.endpoint
            assert (slot.phase is Phase.READY) <= (slot.ready_since is not None)
        if machine.wake_at is not None:
            assert slots or not machine.closed


def opened(*targets: str, **policy: object) -> World:
    world = World(*targets, **policy)
    world.tell(Open())
    return world


def connected(*targets: str, **policy: object) -> World:
    world = opened(*targets, **policy)
    world.connect_all()
    return world


class Room:
    """A room without grpc: what the engine asks for is noted, and channels are as good as they are said to be."""

    def __init__(self, **options: Any) -> None:
        self.noted: list[tuple[str, Any]] = []
        self.broken = False
        self.here = True
        self.clock = FakeClock()
        self.engine = Engine(
            self,
            Policy(
                name="p",
                endpoints=(Endpoint("a"),),
                telemetry_interval=None,
                **{"size": 2, "ping_interval": 5.0, **options.pop("policy", {})},
            ),
            options.pop("strategy", None) or RoundRobin(),
            clock=self.clock,
            rng=random.Random(0),
            log=lambda event: None,
            listeners=options.pop("listeners", ()),
            sample_rate=1,
        )

    def tell(self, message: Any) -> None:
        self.engine.post(message)
        self.engine.pump()

    def build(self, member: Member) -> None:
        if self.broken:
            raise ValueError("secret token")
        member.bound = f"bound {member.id}"

    def connect(self, member: Member) -> None:
        self.noted.append(("connect", member))

    def explain(self, member: Member) -> None:
        self.noted.append(("explain", member))

    def ping(self, member: Member, timeout: float | None) -> None:
        self.noted.append(("ping", member))

    def watch(self, member: Member) -> None:
        self.noted.append(("watch", member))

    def prime(self, member: Member) -> None:
        self.noted.append(("prime", member))

    def close_channel(self, member: Member) -> None:
        self.noted.append(("close", member))

    def published(self) -> None:
        self.noted.append(("published", None))

    def report(self, state: Connectivity) -> None:
        self.noted.append(("report", state))

    def wake(self) -> None:
        self.noted.append(("wake", None))

    def is_here(self) -> bool:
        return self.here

    def on_first_use(self) -> None:
        self.tell(Open())

    def want(self) -> None:
        self.noted.append(("want", None))
        self.tell(Wanted())

    def not_connected(self) -> NoReturn:
        raise LookupError("not connected")

    def no_channel(self) -> NoReturn:
        raise LookupError("no channel")

    def refuse(self) -> NoReturn:
        raise PoolClosed("closed")

    def complain(self, text: str, error: BaseException) -> None:
        self.noted.append(("complain", error))

    def did(self, what: str) -> list[Any]:
        return [about for did, about in self.noted if did == what]

    def acquire(self, source: Any = None, timed: bool = True) -> Lease:
        """Begin an RPC of the engine's, or of another source's, that does not have to wait."""
        lease = Lease(timed)
        assert (source or self.engine).attempt(lease)
        return lease

    def connect_all(self) -> tuple[Member, ...]:
        for member in list(self.engine.machine.slots):
            self.tell(Observed(member, Connectivity.READY))
        return self.engine.generation.members
