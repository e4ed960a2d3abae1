"""The small parts of the core, one by one."""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcpool import events
from grpcpool.core.backoff import backoff
from grpcpool.core.bus import Bus
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.counters import Tally
from grpcpool.core.driver import Driver
from grpcpool.core.engine import Engine
from grpcpool.core.generation import GenerationBuilder
from grpcpool.core.lease import Lease
from grpcpool.core.lookout import NUDGE, Lookout
from grpcpool.core.machine import Machine
from grpcpool.core.member import Member
from grpcpool.core.messages import Close, Emit, Explained, Observed, Open, Pinged, Resize, Tick, Wanted
from grpcpool.core.pace import FAST, Pace
from grpcpool.core.pinned import Pinned
from grpcpool.core.slot import Phase, Policy
from grpcpool.endpoint import Endpoint, place
from grpcpool.errors import PoolClosed, ScalingError
from grpcpool.strategies import RoundRobin
from grpcpool.testing import FakeClock


@pytest.fixture
def hasty() -> Iterator[None]:
    """Let the interpreter change threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(count: int, work: Any) -> None:
    """Run `work` in `count` threads that start together."""
    barrier = threading.Barrier(count)
    failures: list[BaseException] = []

    def run() -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# --- counters, leases, members


def test_a_tally_is_exact_with_many_threads_and_many_looks(hasty: None) -> None:
    tally = Tally()

    def work() -> None:
        for step in range(2000):
            tally.add()
            if step % 50 == 0:
                tally.value()

    in_threads(16, work)
    assert tally.value() == 32000
    assert tally.value() == 32000


def test_a_lease_counts_once_however_often_it_is_given_back() -> None:
    member = Member(0, "a")
    lease = Lease(member, 0.0)
    assert (member.in_flight, member.picks) == (1, 1)
    assert lease.fail(1.0)
    assert not lease.fail(1.0)
    assert not lease.succeed(9.0)
    assert not lease.release(9.0)
    assert (member.in_flight, member.picks, member.failures, member.latency) == (0, 1, 1, None)


def test_the_average_latency_follows_the_last_calls() -> None:
    member = Member(0, "a")
    assert member.latency is None
    for latency in (1.0, 2.0):
        Lease(member, 0.0).succeed(latency)
    Lease(member, 0.0, timed=False).succeed(9.0)
    assert member.latency == 1.125


def test_leases_are_exact_with_many_threads(hasty: None) -> None:
    member = Member(0, "a")
    assert not member.retire() or member.retired
    idle = Tally()
    member.on_idle = lambda _: idle.add()

    def work() -> None:
        for _ in range(500):
            lease = Lease(member, 0.0)
            # Three ends of the same call, as when it is cancelled while it ends and is collected.
            lease.succeed(0.1)
            lease.release(0.1)
            lease.fail(0.1)

    in_threads(16, work)
    assert (member.in_flight, member.picks, member.failures) == (0, 8000, 0)
    assert idle.value() >= 1, "the last one says that the member is idle"


def test_a_retired_member_says_when_its_last_lease_ends() -> None:
    member = Member(3, "a")
    told: list[Member] = []
    member.on_idle = told.append
    first, second = Lease(member, 0.0), Lease(member, 0.0)
    first.release(0.0)
    assert not member.retire()
    assert "retired" in repr(member)
    assert told == []
    second.release(0.0)
    assert told == [member]


def test_a_member_retired_during_a_pick_is_noticed_by_one_side_or_the_other(hasty: None) -> None:
    for _ in range(300):
        member = Member(0, "a")
        seen: list[str] = []
        member.on_idle = lambda _, seen=seen: seen.append("idle")  # type: ignore[misc]

        def retire(member: Member = member, seen: list[str] = seen) -> None:
            if member.retire():
                seen.append("idle")

        def pick(member: Member = member) -> None:
            lease = Lease(member, 0.0)
            if member.retired:
                lease.release(0.0)
            else:
                lease.succeed(0.0)

        todo = iter([retire, pick])
        in_threads(2, lambda todo=todo: next(todo)())
        assert "idle" in seen


# --- backoff, placement


@given(st.integers(1, 10_000), st.floats(0.1, 10), st.floats(10, 100), st.integers())
def test_backoff_grows_within_its_bounds(failures: int, minimum: float, maximum: float, seed: int) -> None:
    delay = backoff(failures, minimum=minimum, maximum=maximum, rng=random.Random(seed))
    assert 0.8 * minimum <= delay <= maximum
    if failures > 60:
        assert delay >= 0.8 * maximum


def test_backoff_is_grpcs() -> None:
    rng = random.Random(1)
    delays = [backoff(4, minimum=1, maximum=100, rng=rng) for _ in range(1000)]
    assert 1.6**3 * 0.8 <= min(delays) < 1.6**3 * 0.82
    assert 1.6**3 * 1.18 < max(delays) <= 1.6**3 * 1.2


@given(st.integers(1, 6), st.integers(1, 40))
def test_members_are_never_more_than_one_apart(targets: int, size: int) -> None:
    endpoints = [Endpoint(f"t{number}") for number in range(targets)]
    taken: list[str] = ["somewhere else"]
    for _ in range(size):
        taken.append(place(endpoints, taken).target)
    counts = [taken.count(endpoint.target) for endpoint in endpoints]
    assert max(counts) - min(counts) <= 1


# --- the driver


class Recorder:
    """A machine's driver whose effects are only noted."""

    def __init__(self) -> None:
        self.machine = Machine(
            Policy(name="p", endpoints=(Endpoint("a"),), size=1, telemetry_interval=1.0), random.Random(0)
        )
        self.clock = FakeClock()
        self.effects: list[Any] = []
        self.errors: list[BaseException] = []
        self.on_effect: Any = lambda effect: None
        self.driver = Driver(self.machine, clock=self.clock, perform=self.perform, on_error=self.errors.append)
        self.depth = 0

    def perform(self, effect: Any) -> None:
        self.depth += 1
        assert self.depth == 1, "effects ran at the same time"
        self.effects.append(effect)
        try:
            self.on_effect(effect)
        finally:
            self.depth -= 1


def test_an_effect_that_fails_takes_no_other_with_it() -> None:
    recorder = Recorder()

    def fail(effect: Any) -> NoReturn:
        raise RuntimeError(type(effect).__name__)

    recorder.on_effect = fail
    recorder.driver.post(Open())
    recorder.driver.pump()
    assert len(recorder.errors) == len(recorder.effects) > 1


def test_a_machine_that_fails_is_fed_again() -> None:
    recorder = Recorder()
    recorder.driver.post("not a message")  # type: ignore[arg-type]
    recorder.driver.post(Resize("x"))
    recorder.driver.pump()
    assert recorder.errors == []
    recorder.machine.policy = None  # type: ignore[assignment]
    recorder.driver.post(Open())
    recorder.driver.pump()
    (error,) = recorder.errors
    assert isinstance(error, AttributeError)


def test_a_machine_that_cannot_settle_is_asked_again() -> None:
    recorder = Recorder()
    settle = recorder.machine.settle

    def fail(now: float) -> NoReturn:
        recorder.machine.settle = settle  # type: ignore[method-assign]
        raise RuntimeError("settle")

    recorder.machine.settle = fail  # type: ignore[method-assign]
    recorder.driver.post(Open())
    recorder.driver.pump()
    assert [str(error) for error in recorder.errors] == ["settle"]
    recorder.driver.post(Tick())
    recorder.driver.pump()
    assert recorder.effects, "what was to be done is done now"


def test_messages_posted_by_effects_are_handled_after_them() -> None:
    recorder = Recorder()
    seen: list[str] = []

    def on_effect(effect: Any) -> None:
        seen.append(type(effect).__name__)
        if isinstance(effect, Emit) and len(seen) < 3:
            recorder.driver.post(Close())
            recorder.driver.pump()
            seen.append("returned")

    recorder.on_effect = on_effect
    recorder.driver.post(Open())
    recorder.driver.pump()
    assert seen[1] == "returned", "a pump from within returns at once"
    assert recorder.machine.closed, "and its message is handled all the same"


def test_no_message_is_lost_and_none_handled_twice_with_many_threads(hasty: None) -> None:
    recorder = Recorder()
    recorder.driver.post(Open())
    recorder.driver.pump()
    handled = Tally()
    take = recorder.machine.take

    def count(message: Any, now: float) -> None:
        handled.add()
        take(message, now)

    recorder.machine.take = count  # type: ignore[method-assign]

    def work() -> None:
        for _ in range(200):
            recorder.driver.post(Tick())
            recorder.driver.pump()

    in_threads(16, work)
    assert handled.value() == 3200
    assert recorder.errors == []


def test_an_interrupt_strikes_after_the_work_is_done() -> None:
    recorder = Recorder()
    struck: list[Any] = []

    def strike(effect: Any) -> None:
        if not struck:
            struck.append(effect)
            raise KeyboardInterrupt

    recorder.on_effect = strike
    recorder.driver.post(Open())
    with pytest.raises(KeyboardInterrupt):
        recorder.driver.pump()
    assert len(recorder.effects) > 1
    assert recorder.errors == []
    recorder.driver.post(Close())
    recorder.driver.pump()
    assert recorder.machine.closed, "and somebody else can go on"


# --- pace and lookout


def test_the_pace_slackens_without_news_and_appointments_are_kept() -> None:
    pace = Pace(0.1)
    quiet = [pace.next(False, None) for _ in range(20)]
    assert quiet == sorted(quiet)
    assert (quiet[0], quiet[-1]) == (FAST * 1.5, 0.1)
    assert pace.next(False, 0.03) == 0.03
    assert pace.next(False, -5.0) == FAST
    assert pace.next(True, None) == FAST
    pace.next(False, None)
    pace.quicken()
    assert pace.next(False, None) == FAST * 1.5
    for members, slow in ((1, 0.05), (70, 0.07), (1000, 0.09)):
        pace.suit(members, least=0.05, most=0.09)
        assert pace.slow == pytest.approx(slow)


def test_the_lookout_passes_on_what_is_new_and_nothing_else() -> None:
    room = Room()
    room.tell(Open())
    first, second = room.engine.machine.slots
    states = {first: "ready", second: "idle"}
    asked: list[Member] = []

    def check(member: Member) -> Any:
        def look(connect: bool) -> str:
            if connect:
                asked.append(member)
            return states[member]

        return look

    lookout = Lookout(room.engine, room.clock, idle="idle", translate=Connectivity)
    lookout.add(first, check(first))
    lookout.add(second, check(second))
    assert len(lookout) == 2
    assert lookout.look() == (True, None)
    room.engine.pump()
    assert room.engine.generation.members == (first,)
    nudges = len(room.did("connect"))
    for passed, more in ((NUDGE / 2, 0), (NUDGE, 1)):
        room.clock.advance(passed)
        assert lookout.look()[0] is False, "idle again is no news"
        room.engine.pump()
        assert len(room.did("connect")) == nudges + more, "but in time it wants a nudge"
    lookout.connect(second)
    assert asked == [second]
    assert lookout.glance(first) is False
    states[first] = "transient failure"
    assert lookout.glance(first) is True
    room.engine.pump()
    assert room.engine.generation.members == ()
    room.tell(Explained(first, "refused"))
    room.clock.advance(60)
    _, appointment = lookout.look()
    assert appointment is not None
    assert appointment < 0
    room.engine.pump()
    assert room.engine.machine.slots[first].trying, "the appointment was kept"
    first.retire()
    states[first] = "ready"
    assert lookout.glance(first) is False
    assert lookout.look()[0] is False
    lookout.remove(first)
    lookout.remove(first)
    assert lookout.glance(first) is False


# --- the bus


def test_listeners_get_every_event_in_order_and_the_log_first() -> None:
    heard: list[Any] = []
    bus = Bus("p", [lambda e: heard.append(("one", e))], log=lambda e: heard.append(("log", e)), on_error=pytest.fail)
    late = lambda e: heard.append(("two", e))  # noqa: E731
    event = events.Closed(pool="p", open_for=1.0)
    bus.add(late)
    bus.emit(event)
    bus.remove(late)
    bus.remove(late)
    bus.emit(event)
    assert [who for who, _ in heard] == ["log", "one", "two", "log", "one"]


def test_a_listener_that_raises_is_counted_reported_once_and_harmless() -> None:
    heard: list[Any] = []
    reported: list[Any] = []

    def bad(event: events.Event) -> NoReturn:
        raise RuntimeError("listener")

    bus = Bus("p", [bad, heard.append], log=lambda e: None, on_error=lambda who, error: reported.append(who))
    for _ in range(3):
        bus.emit(events.Closed(pool="p", open_for=1.0))
    assert len(heard) == 3
    assert bus.errors == 3
    assert reported == [bad]


def test_ctrl_c_in_a_listener_is_not_the_listeners_and_everything_else_is() -> None:
    def leave(event: events.Event) -> NoReturn:
        raise SystemExit

    def interrupted(event: events.Event) -> NoReturn:
        raise KeyboardInterrupt

    bus = Bus("p", [leave, interrupted], log=lambda e: None, on_error=lambda who, error: None)
    with pytest.raises(KeyboardInterrupt):
        bus.emit(events.Closed(pool="p", open_for=1.0))
    assert bus.errors == 1


@pytest.mark.parametrize(("rate", "expected"), [(1, 12), (3, 4), (0, 0)])
def test_picks_are_sampled(rate: int, expected: int) -> None:
    heard: list[Any] = []
    member = Member(7, "a")
    bus = Bus("p", [heard.append], log=pytest.fail, on_error=pytest.fail)
    pick = bus.sampled(lambda: member, rate)
    assert [pick() for _ in range(12)] == [member] * 12
    assert heard == [events.Picked(pool="p", member=7, endpoint="a")] * expected


def test_without_a_listener_a_pick_is_the_pick_itself() -> None:
    pick = lambda: Member(0, "a")  # noqa: E731
    assert Bus("p", [], log=pytest.fail, on_error=pytest.fail).sampled(pick, 1) is pick


# --- generations, and strategies that misbehave


class Custom:
    """A strategy whose picker is what it is told to be."""

    def __init__(self, *pickers: Any) -> None:
        self.pickers = list(pickers)

    def build(self, members: Any, *, rng: random.Random, clock: Any) -> Any:
        picker = self.pickers.pop(0)
        if isinstance(picker, Exception):
            raise picker
        return picker


def builder(strategy: Any, problems: list[str]) -> GenerationBuilder:
    def no_one() -> NoReturn:
        raise LookupError

    return GenerationBuilder(
        strategy,
        rng=random.Random(0),
        clock=FakeClock(),
        not_connected=no_one,
        no_channel=no_one,
        on_error=problems.append,
    )


MEMBERS = tuple(Member(number, "a") for number in range(3))


def test_a_strategy_that_raises_in_build_leaves_the_previous_picker() -> None:
    problems: list[str] = []
    make = builder(Custom(lambda: MEMBERS[1], RuntimeError("bad day")), problems)
    assert make.build(MEMBERS, ()).pick() is MEMBERS[1]
    generation = make.build(MEMBERS, ())
    assert generation.pick() is MEMBERS[1]
    assert problems == ["build() raised RuntimeError"]


def test_the_previous_picker_may_not_pick_who_has_left() -> None:
    problems: list[str] = []
    make = builder(Custom(lambda: MEMBERS[0], RuntimeError("bad day")), problems)
    make.build(MEMBERS, ())
    generation = make.build(MEMBERS[1:], ())
    assert {generation.pick() for _ in range(4)} == set(MEMBERS[1:])


@pytest.mark.parametrize("picker", [RuntimeError("bad day"), 42])
def test_a_strategy_that_never_built_anything_is_replaced_by_a_rotation(picker: Any) -> None:
    problems: list[str] = []
    generation = builder(Custom(picker), problems).build(MEMBERS, ())
    assert {generation.pick() for _ in range(3)} == set(MEMBERS)
    assert len(problems) == 1


@pytest.mark.parametrize("wrong", [Member(9, "foreign"), None, [], RuntimeError("bad day")])
def test_a_picker_that_returns_a_stranger_or_raises_is_overruled(wrong: Any) -> None:
    problems: list[str] = []

    def picker() -> Any:
        if isinstance(wrong, Exception):
            raise wrong
        return wrong

    generation = builder(Custom(picker), problems).build(MEMBERS, ())
    assert {generation.pick() for _ in range(3)} == set(MEMBERS)
    assert len(problems) == 1, "and it is said once"


def test_without_a_connected_member_rpcs_take_turns_on_the_others_and_others_are_told() -> None:
    make = builder(RoundRobin(), [])
    generation = make.build((), MEMBERS)
    assert generation.members == ()
    assert [generation.pick() for _ in range(4)] == [*MEMBERS, MEMBERS[0]]
    with pytest.raises(LookupError):
        generation.pick_connected()
    with pytest.raises(LookupError):
        make.build((), ()).pick()
    assert "of 3 members" in repr(make.build(MEMBERS, ()))


# --- the engine


class Room:
    """A room without grpc: what the engine asks for is noted, and channels are as good as they are said to be."""

    def __init__(self, **options: Any) -> None:
        self.noted: list[tuple[str, Any]] = []
        self.broken = False
        self.clock = FakeClock()
        self.engine = Engine(
            self,
            Policy(name="p", endpoints=(Endpoint("a"),), size=2, telemetry_interval=None, ping_interval=5.0),
            RoundRobin(),
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

    def ping(self, member: Member) -> None:
        self.noted.append(("ping", member))

    def close_channel(self, member: Member) -> None:
        self.noted.append(("close", member))

    def published(self) -> None:
        self.noted.append(("published", None))

    def report(self, state: Connectivity) -> None:
        self.noted.append(("report", state))

    def wake(self) -> None:
        self.noted.append(("wake", None))

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

    def connect_all(self) -> tuple[Member, ...]:
        for member in list(self.engine.machine.slots):
            self.tell(Observed(member, Connectivity.READY))
        return self.engine.generation.members


def test_the_first_rpc_opens_the_pool() -> None:
    room = Room()
    lease = room.engine.acquire(True)
    assert lease.member in room.engine.machine.slots
    assert room.did("connect") == list(room.engine.machine.slots)
    with pytest.raises(LookupError, match="not connected"):
        room.engine.generation.pick_connected()


def test_the_first_look_for_a_connected_member_opens_the_pool_too() -> None:
    room = Room()
    with pytest.raises(LookupError, match="not connected"):
        room.engine.generation.pick_connected()
    assert len(room.engine.machine.slots) == 2


def test_a_channel_that_cannot_be_made_is_no_secret_s_way_out() -> None:
    heard: list[events.Event] = []
    room = Room(listeners=(heard.append,))
    room.broken = True
    with pytest.raises(LookupError, match="no channel"):
        room.engine.acquire(True)
    assert "its channel could not be made: ValueError" in room.engine.describe()
    assert not [event for event in heard if "secret" in repr(event)]


def test_an_rpc_that_a_listener_makes_while_the_pool_opens_is_refused() -> None:
    caught: list[BaseException] = []

    def eager(event: events.Event) -> None:
        if isinstance(event, events.Opened):
            with pytest.raises(LookupError, match="no channel") as error:
                room.engine.acquire(True)
            caught.append(error.value)

    room = Room(listeners=(eager,))
    room.engine.acquire(True)
    assert len(caught) == 1


def test_a_lease_on_a_member_that_has_left_goes_to_another() -> None:
    room = Room()
    room.tell(Open())
    left, stays = room.connect_all()
    stale = room.engine.generation
    ticket: Future[int] = Future()
    room.tell(Resize(ticket, by=-1))
    left, stays = (left, stays) if left.retired else (stays, left)
    assert ticket.result(0) == 1
    assert Pinned(room.engine, left).acquire(True).member is stays
    assert Pinned(room.engine, stays).acquire(True).member is stays
    # A thread that read the generation just before the change, and picks from it just after.
    current = room.engine.generation

    class Late:
        members = current.members

        @staticmethod
        def pick() -> Member:
            room.engine.generation = current
            return left

    room.engine.generation = Late()  # type: ignore[assignment]
    assert room.engine.acquire(True).member is stays
    assert left.in_flight == 0
    assert stale.members != current.members


def test_a_retired_member_is_closed_after_its_last_rpc_and_not_from_where_that_ends() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    leases = [room.engine.acquire(True), room.engine.acquire(True)]
    room.tell(Resize(None, by=-1))
    (leaving,) = [lease for lease in leases if lease.member.retired]
    leaving.succeed(0.0)
    assert room.did("wake") == [None]
    assert room.did("close") == []
    room.engine.pump()
    assert room.did("close") == [leaving.member]


def test_the_room_is_asked_for_explanations_and_pings() -> None:
    room = Room()
    room.tell(Open())
    first, second = room.connect_all()
    room.tell(Observed(first, Connectivity.TRANSIENT_FAILURE))
    assert room.did("explain") == [first]
    room.tell(Explained(first, "refused"))
    for _ in range(2):
        room.clock.advance(5)
        room.tell(Tick())
    assert room.did("ping") == [second]
    room.tell(Pinged(second, 0.1, None))


def test_an_rpc_that_finds_all_members_down_asks_for_a_fresh_channel_and_goes_there() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    for member in list(room.engine.machine.slots):
        room.tell(Observed(member, Connectivity.TRANSIENT_FAILURE))
        room.tell(Explained(member, "refused"))
    before = set(room.engine.machine.slots)
    lease = room.engine.acquire(True)
    assert lease.member not in before
    assert room.did("want") == [None]
    # All the RPCs of that moment go there as well; and when it has failed, they fail with the others for a while.
    assert room.engine.acquire(True).member is lease.member
    room.tell(Observed(lease.member, Connectivity.TRANSIENT_FAILURE))
    assert room.engine.acquire(True).member in room.engine.machine.slots
    assert len([slot for slot in room.engine.machine.slots.values() if slot.phase is not Phase.DRAINING]) == 2


def test_a_closed_engine_refuses_rpcs() -> None:
    room = Room()
    room.tell(Open())
    room.tell(Close())
    for pick in (lambda: room.engine.acquire(True), room.engine.generation.pick_connected):
        with pytest.raises(PoolClosed):
            pick()
    assert room.did("report")[-1] is Connectivity.SHUTDOWN


def test_tickets_are_settled_unless_their_waiter_has_gone() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    gone: Future[int] = Future()
    gone.cancel()
    room.tell(Resize(gone, to=1))
    refused: Future[int] = Future()
    room.tell(Resize(refused, to=0))
    with pytest.raises(ScalingError):
        refused.result(0)
    assert room.engine.status().expected_size == 1


def test_a_question_that_cannot_be_asked_is_answered_all_the_same() -> None:
    room = Room()
    room.tell(Open())
    first, second = room.connect_all()

    def fail(member: Member) -> NoReturn:
        raise RuntimeError("can't start new thread")

    room.explain = room.ping = fail  # type: ignore[method-assign]
    room.tell(Observed(first, Connectivity.TRANSIENT_FAILURE))
    slot = room.engine.machine.slots[first]
    assert (slot.busy, slot.error) == (False, "could not be asked: RuntimeError")
    for _ in range(2):
        room.clock.advance(5)
        room.tell(Tick())
    slot = room.engine.machine.slots[second]
    assert not slot.busy
    assert slot.due is not None


def test_an_interrupt_while_channels_are_made_leaves_a_pool_that_goes_on() -> None:
    room = Room()
    build = room.build

    def interrupt(member: Member) -> None:
        if member.id:
            raise KeyboardInterrupt
        build(member)

    room.build = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        room.tell(Open())
    room.engine.pump()
    assert [slot.phase for slot in room.engine.machine.slots.values()] == [Phase.CONNECTING, Phase.DOWN]


def test_an_interrupted_publishing_is_made_up_for() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    stale = room.engine.generation
    room.tell(Resize(None, by=-1))
    room.engine.generation = stale
    assert not any(room.engine.acquire(True).member.retired for _ in range(4))
    assert room.engine.generation is not stale


def test_a_log_that_raises_stops_nothing() -> None:
    def log(event: events.Event) -> NoReturn:
        raise RuntimeError("a filter of the user's")

    heard: list[events.Event] = []
    bus = Bus("p", [heard.append], log=log, on_error=pytest.fail)
    bus.emit(events.Closed(pool="p", open_for=1.0))
    assert len(heard) == bus.errors == 1


def test_listeners_come_and_go_and_picks_are_told_to_them_from_then_on() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    heard: list[events.Event] = []
    room.engine.acquire(True).release(0.0)
    room.engine.add_listener(heard.append)
    room.engine.acquire(True).release(0.0)
    room.engine.generation.pick_connected()
    room.engine.remove_listener(heard.append)
    room.engine.acquire(True).release(0.0)
    assert [type(event) for event in heard] == [events.Picked, events.Picked]


def test_what_fails_in_the_background_is_counted_and_told() -> None:
    heard: list[events.Event] = []
    room = Room(listeners=(heard.append,))

    def fail(member: Member) -> NoReturn:
        raise RuntimeError("connect")

    room.connect = fail  # type: ignore[method-assign]
    room.tell(Open())
    room.engine.maintenance_failed(RuntimeError("elsewhere"))
    assert room.engine.stats().maintenance_errors == 3
    assert [e.error for e in heard if isinstance(e, events.MaintenanceFailed)][-1] == "RuntimeError"
    assert len(room.did("complain")) == 3


def test_a_listener_that_raises_is_complained_of_once() -> None:
    def bad(event: events.Event) -> NoReturn:
        raise RuntimeError("listener")

    room = Room(listeners=(bad,))
    room.tell(Open())
    room.connect_all()
    assert room.engine.stats().listener_errors == 3
    assert len(room.did("complain")) == 1


def test_statistics_outlive_members() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    for failed in (False, True):
        lease = room.engine.acquire(True)
        if failed:
            lease.fail(lease.started + 0.5)
        else:
            lease.succeed(lease.started + 0.5)
    running = room.engine.acquire(True)
    room.clock.advance(2)
    stats = room.engine.stats()
    assert (stats.calls, stats.failures, stats.in_flight, stats.size, stats.connects) == (3, 1, 1, 2, 2)
    assert {member.age for member in stats.members} == {2.0}
    assert sorted(member.latency for member in stats.members if member.latency is not None) == [0.5]
    running.succeed(2.0)
    room.tell(Resize(None, to=1))
    stats = room.engine.stats()
    assert (stats.calls, stats.failures, stats.in_flight, stats.disconnects) == (3, 1, 0, 1)
    assert len(stats.members) == 1
    assert room.engine.status().status == "healthy"


def test_garbage_collection_may_strike_while_the_engine_works() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    lease = room.engine.acquire(True)
    room.tell(Resize(None, by=-1))
    room.tell(Resize(None, by=1))

    class Call:
        """Dies in the middle of something, as a cycle does in a collection."""

        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            lease.release(0.0)

    Call()
    gc.collect()
    room.engine.pump()
    assert lease.member.in_flight == 0
