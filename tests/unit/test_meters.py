"""What meters are told, when, and how often; and what becomes of those that fail."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import pytest

from grpcpool import events
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.guard import SILENT, Guarded
from grpcpool.core.lease import Lease
from grpcpool.core.member import Member
from grpcpool.core.messages import Observed, Open, Resize
from grpcpool.core.pinned import Pinned
from grpcpool.strategies import Clock, ConsistentHash, PowerOfTwo, RoundRobin

from .helpers import Diary, builder, in_threads
from .world import Room


def metered() -> tuple[Member, Diary]:
    member, diary = Member(0, "a"), Diary()
    member.observer = diary
    return member, diary


# --- members

ENDS: dict[str, tuple[Callable[[Lease, float], bool], str, int]] = {
    "succeed": (Lease.succeed, "answered", 0),
    "fail": (Lease.fail, "failed", 1),
    "fail by no fault of the member's": (lambda lease, now: lease.fail(now, blame=False), "answered", 1),
    "release": (Lease.release, "dropped", 0),
}


@pytest.mark.parametrize("timed", [True, False], ids=["unary", "stream"])
@pytest.mark.parametrize("how", ENDS)
def test_the_beginning_of_an_rpc_is_told_and_the_first_of_its_ends(how: str, timed: bool) -> None:
    end, word, failures = ENDS[how]
    member, diary = metered()
    lease = Lease.on(member, 1.0, timed)
    assert diary.told == [("started", 1.0, timed)]
    assert end(lease, 3.5)
    assert not any(again(lease, 4.0) for again, _, _ in ENDS.values())
    assert diary.told == [("started", 1.0, timed), (word, 3.5, 2.5 if timed else None)]
    assert (member.picks, member.in_flight, member.failures) == (1, 0, failures)
    # What the application answers at once, or a caller does not wait for, says nothing about how long calls take.
    assert member.latency == (2.5 if timed and how == "succeed" else None)


def test_without_an_observer_nobody_is_told() -> None:
    member = Member(0, "a")
    for end, _, _ in ENDS.values():
        assert end(Lease.on(member, 0.0), 1.0)
    assert (member.picks, member.in_flight, member.failures) == (4, 0, 2)


def test_a_token_may_be_anything_and_is_a_new_one_by_default() -> None:
    member, diary = metered()
    mine, other = object(), member.begin(0.0, True)
    assert member.begin(0.0, True, mine) is mine
    assert member.leases == {mine, other}
    assert member.begin(0.0, True) != other
    assert diary.kinds() == ["started"] * 3


def test_an_rpc_that_is_handed_over_is_the_same_rpc() -> None:
    member, diary = metered()
    lease, heir = Lease.on(member, 0.0), object()
    lease.hand_over(heir)
    assert member.in_flight == 1
    assert not lease.succeed(1.0)
    assert member.answered(heir, 1.0, 1.0)
    assert diary.told == [("started", 0.0, True), ("answered", 1.0, 1.0)]


def test_who_ends_an_rpc_on_a_retired_member_tells_the_meter_and_then_that_it_is_idle() -> None:
    member, diary = metered()
    lease = Lease.on(member, 0.0)
    idle: list[Member] = []
    member.on_idle = idle.append
    assert not member.retire()
    assert lease.fail(1.0)
    assert diary.kinds() == ["started", "failed"]
    assert idle == [member]


@pytest.mark.parametrize("timed", [True, False], ids=["unary", "streams"])
def test_every_rpc_is_told_once_whoever_ends_it_among_many_threads(hasty: None, timed: bool) -> None:
    member, diary = metered()
    ways = itertools.cycle(ENDS.values())
    contested: list[Lease] = []
    ended: list[str] = []

    def begin() -> None:
        contested.extend(Lease.on(member, 0.0, timed) for _ in range(100))

    def end() -> None:
        # Everybody tries to end every one of them, each thread in one way.
        end, word, _ = next(ways)
        ended.extend(word for lease in contested if end(lease, 1.0))

    in_threads(16, begin)
    assert Counter(diary.told) == {("started", 0.0, timed): 1600}
    diary.told.clear()
    in_threads(16, end)
    assert len(ended) == 1600
    assert Counter(diary.kinds()) == Counter(ended)
    assert {latency for _, _, latency in diary.told} == {1.0 if timed else None}
    assert (member.in_flight, member.picks) == (0, 1600)


# --- meters that fail


class Broken(Diary):
    """A meter of which one method raises."""

    def __init__(self, broken: str) -> None:
        super().__init__()
        setattr(self, broken, self.fail)

    def fail(self, *_: object) -> NoReturn:
        self.told.append(("failing",))
        raise ZeroDivisionError("secret token")


@pytest.mark.parametrize("broken", ["started", "answered", "failed", "dropped"])
def test_a_meter_that_raises_is_told_of_once_and_told_nothing_more(broken: str) -> None:
    meter, problems = Broken(broken), list[str]()
    guarded = Guarded(meter, problems.append)
    member = Member(0, "a")
    member.observer = guarded
    for _ in range(2):
        for end, _, _ in ENDS.values():
            assert end(Lease.on(member, 0.0), 1.0)
    assert problems == ["a meter raised ZeroDivisionError, and is not told anything more"]
    script = ["started", "answered", "started", "failed", "started", "answered", "started", "dropped"]
    assert meter.kinds() == [*script[: script.index(broken)], "failing"]
    assert (member.picks, member.in_flight, member.failures) == (8, 0, 4)


def test_a_guard_passes_everything_on() -> None:
    member, diary = metered()
    other = Member(1, "a")
    other.observer = Guarded(watched := Diary(), pytest.fail)
    for each in (member, other):
        for timed in (True, False):
            for end, _, _ in ENDS.values():
                end(Lease.on(each, 0.0, timed), 1.0)
    assert watched.told == diary.told
    assert len(diary.told) == 16


# --- strategies that measure


class Foreign:
    """A strategy of somebody's own, with meters; it looks at them when it builds."""

    def __init__(self, meter: Callable[[], Any] = Diary) -> None:
        self.make = meter
        self.asked: list[Member] = []
        self.seen: list[list[Any]] = []

    def meter(self, member: Any) -> Any:
        self.asked.append(member)
        return self.make()

    def build(self, members: Sequence[Any], *, rng: random.Random, clock: Clock) -> Any:
        self.seen.append([member.meter for member in members])
        return itertools.cycle(members).__next__


class Plain:
    """A strategy of somebody's own that measures nothing."""

    def build(self, members: Sequence[Any], *, rng: random.Random, clock: Clock) -> Any:
        return itertools.cycle(members).__next__


def some(count: int) -> tuple[Member, ...]:
    return tuple(Member(number, "a") for number in range(count))


def fail() -> NoReturn:
    raise ZeroDivisionError("secret token")


def test_a_strategy_finds_its_own_meters_on_the_members_when_it_builds() -> None:
    strategy, (one, two, three) = Foreign(), some(3)
    make = builder(strategy)
    make.build((one, two), ())
    make.build((two, three), ())
    make.build((one, two, three), ())
    assert strategy.asked == [one, two, three], "once for each"
    meters = [member.meter for member in (one, two, three)]
    assert all(type(meter) is Diary for meter in meters)
    assert strategy.seen == [meters[:2], meters[1:], meters]


def test_somebody_elses_meter_is_told_through_a_guard() -> None:
    strategy, (member,) = Foreign(), some(1)
    generation = builder(strategy).build((member,), ())
    Lease.on(generation.pick(), 0.0).succeed(1.0)
    assert member.meter.told == [("started", 0.0, True), ("answered", 1.0, 1.0)]
    assert type(member.observer) is Guarded


def test_our_own_meters_are_told_directly() -> None:
    strategy, (member,) = ConsistentHash(), some(1)
    builder(strategy).build((member,), ())
    assert member.observer is member.meter is not None


class Gauge(Broken):
    """Somebody's own, of which one method raises."""

    def __init__(self, broken: str, member: Any) -> None:
        super().__init__(broken)
        self.member = member

    def cost(self, now: float) -> float:
        return 1.0


class Load:
    """A load metric of somebody's own."""

    def __init__(self, broken: str) -> None:
        self.broken = broken

    def gauge(self, member: Any) -> Gauge:
        if self.broken == "gauge":
            raise ZeroDivisionError
        return Gauge(self.broken, member)


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("gauge", "the picker raised AttributeError"),
        ("cost", "the picker raised ZeroDivisionError"),
        ("started", "a meter raised ZeroDivisionError, and is not told anything more"),
        ("answered", "a meter raised ZeroDivisionError, and is not told anything more"),
    ],
)
def test_somebody_elses_load_metric_that_raises_takes_no_rpc_with_it(broken: str, problem: str) -> None:
    problems: list[str] = []
    members = some(2)
    generation = builder(PowerOfTwo(Load(broken)), problems).build(members, ())
    for _ in range(20):
        assert Lease.on(generation.pick(), 0.0).succeed(1.0)
    assert set(problems) - {"meter() raised ZeroDivisionError"} == {problem}
    assert sum(member.in_flight for member in members) == 0


@pytest.mark.parametrize("strategy", [Plain(), RoundRobin()])
def test_strategies_without_meters_are_told_nothing(strategy: Any) -> None:
    members = some(2)
    builder(strategy).build(members, ())
    assert [(member.meter, member.observer) for member in members] == [(None, None)] * 2


def test_a_strategy_that_cannot_make_its_meters_does_without() -> None:
    problems: list[str] = []
    strategy, members = Foreign(fail), some(2)
    make = builder(strategy, problems)
    make.build(members, ())
    generation = make.build(members, ())
    assert problems == ["meter() raised ZeroDivisionError"] * 2, "once for each member"
    assert strategy.seen == [[None, None]] * 2
    assert [member.observer for member in members] == [SILENT, SILENT]
    picked = [generation.pick() for _ in range(2)]
    for end, _, _ in ENDS.values():
        assert end(Lease.on(picked[0], 0.0), 1.0)
    assert set(picked) == set(members)


@pytest.mark.parametrize("wrong", [None, 42, object()])
def test_what_is_no_meter_fails_when_it_is_told_and_not_the_rpc(wrong: Any) -> None:
    problems: list[str] = []
    (member,) = some(1)
    generation = builder(Foreign(lambda: wrong), problems).build((member,), ())
    for _ in range(2):
        assert Lease.on(generation.pick(), 0.0).succeed(1.0)
    assert problems == ["a meter raised AttributeError, and is not told anything more"]


def test_members_that_are_not_connected_yet_have_their_meters_before_they_are_picked() -> None:
    strategy, members = Foreign(), some(2)
    generation = builder(strategy).build((), members)
    assert strategy.asked == list(members)
    assert strategy.seen == [], "there is nothing to choose by"
    member = generation.pick()
    assert member.meter is not None
    Lease.on(member, 0.0).release(1.0)
    assert member.meter.kinds() == ["started", "dropped"]


# --- in a pool


def test_the_first_rpc_of_a_pool_is_told_to_the_meter_of_a_member_that_connects_yet() -> None:
    strategy = Foreign()
    room = Room(strategy=strategy)
    lease = room.acquire()
    assert lease.member.meter.kinds() == ["started"]
    for member in list(room.engine.machine.slots):
        room.tell(Observed(member, Connectivity.READY))
    lease.succeed(1.0)
    assert lease.member.meter.kinds() == ["started", "answered"]
    assert sorted(member.id for member in strategy.asked) == [0, 1], "and it keeps that meter when it is connected"


def test_an_rpc_that_came_too_late_for_its_member_is_never_told_to_it() -> None:
    strategy = Foreign()
    room = Room(strategy=strategy)
    room.tell(Open())
    room.connect_all()
    room.tell(Resize(None, by=-1))
    (stays,) = room.engine.generation.members
    (left,) = set(strategy.asked) - {stays}
    lease = room.acquire(Pinned(room.engine, left))
    assert lease.member is stays
    assert left.meter.kinds() == []
    assert (left.in_flight, left.picks) == (0, 0)
    assert stays.meter.kinds() == ["started"]


def test_a_strategy_whose_meters_fail_is_reported_and_serves_on() -> None:
    heard: list[events.Event] = []
    room = Room(strategy=Foreign(lambda: Broken("answered")), listeners=(heard.append,))
    room.tell(Open())
    room.connect_all()
    for _ in range(4):
        room.acquire().succeed(1.0)
    failed = [event for event in heard if isinstance(event, events.StrategyFailed)]
    problem = "a meter raised ZeroDivisionError, and is not told anything more"
    assert failed == [events.StrategyFailed(pool="p", strategy="Foreign", error=problem)] * 2, "once for each member"
    assert room.engine.stats().in_flight == 0
