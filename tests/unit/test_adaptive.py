"""`adaptive`: what it picks, by its documented formula, and what threads can do to its books."""

from __future__ import annotations

import itertools
import math
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpcpool.core.generation import Generation, GenerationBuilder
from grpcpool.core.lease import Lease
from grpcpool.core.member import Member
from grpcpool.strategies import Adaptive, PowerOfTwo, Strain, adaptive
from grpcpool.strategies.adaptive import COMPARED, TABLED, TOLERANCE
from grpcpool.strategies.load import FAILURE, LEAST, PROBE
from grpcpool.testing import FakeClock, StrategyHarness

from .moment import Moment, strike

TAU = 3.0
FEW, MANY = 7, COMPARED + 6
BOTH_WAYS = pytest.mark.parametrize("size", [FEW, MANY])


class Pool:
    """Members under `adaptive`, with a clock that stands still."""

    def __init__(self, size: int, seed: int = 0, among: Iterable[Member] = ()) -> None:
        self.clock = FakeClock()
        self.members = tuple(among) or tuple(Member(index, "a") for index in range(size))
        self.builder = GenerationBuilder(
            Adaptive(),
            rng=random.Random(seed),
            clock=self.clock,
            not_connected=wrong,
            no_channel=wrong,
            on_error=wrong,
        )
        self.generation: Generation
        self.connect(self.members)

    def connect(self, members: Iterable[Member]) -> None:
        self.generation = self.builder.build(tuple(members), ())

    def pick(self) -> Member:
        return self.generation.pick()

    def start(self, timed: bool = True) -> Lease:
        return Lease.on(self.pick(), self.clock(), timed)

    def teach(self, latency: float = 0.01, members: Iterable[Member] = ()) -> None:
        """Let each member answer after so many seconds."""
        for member in members or self.members:
            Lease.on(member, self.clock() - latency).succeed(self.clock())

    def run(self, seconds: float, latency: Callable[[Member], float | None], every: float = 0.001) -> Counter[Member]:
        """Start calls at this interval, which end after `latency`, negative if they fail, None if they never do."""
        counts: Counter[Member] = Counter()
        ends: list[tuple[float, int, Lease, bool]] = []
        until = self.clock() + seconds
        for number in itertools.count():
            now = self.clock()
            if now >= until:
                return counts
            for end in sorted(each for each in ends if each[0] <= now):
                ends.remove(end)
                (end[2].succeed if end[3] else end[2].fail)(end[0])
            lease = self.start()
            counts[lease.member] += 1
            takes = latency(lease.member)
            if takes is not None:
                ends.append((now + abs(takes), number, lease, takes >= 0))
            self.clock.advance(every)
        raise AssertionError


def wrong(*problem: str) -> NoReturn:
    raise AssertionError(*problem)


def weight_after(silence: float) -> float:
    """Say what a sample weighs so many seconds after the last one."""
    return 1 - 0.8 * max(0.0, 1 - silence / TAU)


def gauge_of(member: Member) -> Any:
    return member.meter


class Gauged:
    """A member with a gauge of its own."""

    def __init__(self) -> None:
        self.member = Member(0, "a")
        self.gauge = Strain(TAU).gauge(self.member)
        self.member.meter = self.member.observer = self.gauge

    def start(self, now: float, timed: bool = True) -> Lease:
        return Lease.on(self.member, now, timed)

    def answer(self, now: float, latency: float) -> None:
        self.start(now - latency).succeed(now)

    def cost(self, now: float) -> float:
        return self.gauge.cost(now)


# --- strain


@given(st.floats(1e-4, 10), st.floats(1e-4, 10), st.floats(0, 30))
def test_a_sample_weighs_a_fifth_and_more_after_a_silence(first: float, second: float, silence: float) -> None:
    gauged = Gauged()
    gauged.answer(100.0, first)
    assert gauged.cost(100.0) == pytest.approx(first)
    gauged.answer(100.0 + silence, second)
    weight = weight_after(silence)
    assert gauged.cost(100.0 + silence) == pytest.approx(first * (1 - weight) + second * weight)


@given(st.floats(1e-3, 10), st.floats(0, 100))
def test_the_average_decays_when_it_is_read(latency: float, later: float) -> None:
    gauged = Gauged()
    gauged.answer(100.0, latency)
    assert gauged.cost(100.0 + later) == pytest.approx(max(LEAST, latency * math.exp(-later / TAU)))


def test_nothing_takes_no_time() -> None:
    gauged = Gauged()
    gauged.start(1.0).succeed(1.0)
    assert gauged.cost(1.0) == LEAST


@pytest.mark.parametrize(("latency", "counted"), [(0.0, FAILURE), (0.999, FAILURE), (5.0, 5.0)])
def test_a_failure_replaces_the_average(latency: float, counted: float) -> None:
    gauged = Gauged()
    gauged.answer(1.0, 0.01)
    gauged.start(10.0 - latency).fail(10.0)
    assert gauged.cost(10.0) == pytest.approx(counted)


def test_a_failure_is_no_better_than_what_was_there() -> None:
    gauged = Gauged()
    gauged.answer(10.0, 8.0)
    gauged.start(11.0).fail(11.0)
    assert gauged.cost(11.0) == pytest.approx(8.0 * math.exp(-1 / TAU))


def test_the_stall_grows_from_the_first_call_or_the_last_answer() -> None:
    gauged = Gauged()
    gauged.answer(9.0, 0.01)
    first = gauged.start(10.0)
    second = gauged.start(12.0)
    assert gauged.cost(10.5) == pytest.approx(0.5 * 3)
    assert gauged.cost(14.0) == pytest.approx(4.0 * 3)
    first.succeed(14.0)
    # After so long a silence this is all that is known.
    assert gauged.cost(14.0) == pytest.approx(4.0 * 2)
    assert gauged.cost(30.0) == pytest.approx(16.0 * 2)
    second.fail(30.0)
    assert gauged.cost(30.0) == pytest.approx(18.0)


def test_nothing_stalls_while_nothing_is_in_flight() -> None:
    gauged = Gauged()
    for ended in (Lease.succeed, Lease.fail, Lease.release):
        ended(gauged.start(10.0), 10.0)
        assert gauged.cost(1000.0) == LEAST
        gauged.start(1000.0).succeed(1000.0)
        assert gauged.cost(1000.0) == LEAST


def test_streams_are_in_flight_but_nobody_waits_for_them() -> None:
    gauged = Gauged()
    gauged.answer(10.0, 1.0)
    streams = [gauged.start(10.0, False) for _ in range(3)]
    assert gauged.cost(10.0) == pytest.approx(4.0)
    assert gauged.cost(11.0) == pytest.approx(4.0 * math.exp(-1 / TAU))
    call = gauged.start(11.0)
    assert gauged.cost(13.0) == pytest.approx(2.0 * 5)
    # A stream that ends is not what the call waits for.
    streams[0].succeed(13.0)
    streams[1].release(13.0)
    assert gauged.cost(14.0) == pytest.approx(3.0 * 3)
    call.release(14.0)
    assert gauged.cost(18.0) < 3.0 * 2
    before = gauged.cost(18.0)
    streams[2].succeed(18.0)
    assert gauged.cost(18.0) == pytest.approx(before / 2)
    gauged.start(18.0, False).fail(18.0)
    assert gauged.cost(18.0) == pytest.approx(1.0)


def test_a_dropped_call_counts_only_if_it_took_longer_than_usual() -> None:
    gauged = Gauged()
    gauged.answer(1.0, 0.1)
    gauged.start(1.0).release(1.05)
    assert gauged.cost(1.0) == pytest.approx(0.1)
    gauged.start(1.0).release(1.5)
    weight = weight_after(0.5)
    assert gauged.cost(1.5) == pytest.approx(0.1 + 0.4 * weight)


def test_a_dropped_call_is_no_answer_for_the_others() -> None:
    gauged = Gauged()
    gauged.answer(1.0, 0.1)
    stuck = gauged.start(10.0)
    for step in range(1, 100):
        now = 10.0 + step / 20
        hasty = gauged.start(now - 0.05)
        hasty.release(now)
        assert gauged.cost(now) >= (now - 10.0) * 2 * 0.999
    stuck.release(10.01)
    assert gauged.cost(15.0) < 0.1


def test_an_unknown_member_admits_one_probe() -> None:
    gauged = Gauged()
    assert gauged.cost(5.0) == LEAST
    probe = gauged.start(5.0)
    assert gauged.cost(5.0) == pytest.approx(PROBE * 2)
    another = gauged.start(5.0)
    probe.release(5.1)
    assert gauged.cost(5.1) > PROBE, "there is still one out"
    another.release(5.2)
    assert gauged.cost(5.2) == LEAST
    gauged.answer(6.0, 0.1)
    assert gauged.cost(6.0) == pytest.approx(0.1)


def test_the_load_can_be_given() -> None:
    harness = StrategyHarness(Adaptive(Strain(tau=1.0)), 2)
    slow = harness.pick()
    harness.done(slow, latency=10.0)
    picks = Counter[int]()
    for _ in range(120):
        harness.clock.advance(0.1)  # type: ignore[attr-defined]
        index = harness.pick()
        picks[index] += 1
        harness.done(index, latency=10.0 if index == slow else 0.01)
    # Every 6.9 time constants.
    assert picks[slow] == 1


def test_strain_serves_other_rules_too() -> None:
    harness = StrategyHarness(PowerOfTwo(Strain()), 2)
    hung = harness.pick()
    other = harness.pick()
    assert other != hung
    harness.done(other, latency=0.01)
    assert {harness.pick() for _ in range(20)} == {other}


# --- picks


@BOTH_WAYS
def test_a_hung_member_is_avoided_before_any_call_on_it_has_ended(size: int) -> None:
    pool = Pool(size)
    pool.teach()
    hung = pool.members[0]
    counts = pool.run(5.0, lambda member: None if member is hung else 0.01)
    assert 1 <= counts[hung] <= 4
    assert hung.in_flight == counts[hung]


@BOTH_WAYS
def test_a_member_that_fails_at_once_draws_no_traffic_and_is_tried_again(size: int) -> None:
    pool = Pool(size)
    pool.teach()
    failing = pool.members[0]
    counts = pool.run(60.0, lambda member: -0.0005 if member is failing else 0.01, every=0.005)
    # A failure, which counts as 1 s, is as good as 10 ms after 4.6 time constants.
    assert 2 <= counts[failing] <= 8
    counts = pool.run(30.0, lambda member: 0.01, every=0.005)
    assert counts[failing] > 0.2 * counts.total() / size


def test_a_slow_member_is_avoided_and_tried_again() -> None:
    pool = Pool(FEW)
    slow = pool.members[0]
    counts = pool.run(60.0, lambda member: 0.1 if member is slow else 0.01, every=0.005)
    assert 5 <= counts[slow] <= 0.03 * counts.total()


@pytest.mark.parametrize("size", [1, 2, FEW, COMPARED])
def test_equal_members_take_turns(size: int) -> None:
    pool = Pool(size)
    pool.teach()
    first = [pool.pick() for _ in range(size)]
    assert set(first) == set(pool.members)
    assert [pool.pick() for _ in range(size)] == first
    # Also if each is busy for a while.
    for _ in range(3):
        leases = [pool.start() for _ in range(size)]
        assert {lease.member for lease in leases} == set(pool.members)
    # And unknown ones.
    pool = Pool(size)
    assert {pool.pick() for _ in range(size)} == set(pool.members)
    assert {pool.start().member for _ in range(size)} == set(pool.members)


@pytest.mark.parametrize(
    ("how", "usual", "after", "other"),
    [
        ("one begins", 0.01, 0.015, 0.024),
        ("one is answered", 0.01, 0.015, 0.024),
        ("one is answered", 3.0, 2.9, 3.5),
        ("one fails", 1.0, 0.95, 1.6),
    ],
)
def test_a_stall_tells_as_soon_as_it_is_longer_than_what_is_left_of_the_average(
    how: str, usual: float, after: float, other: float
) -> None:
    pool = Pool(2)
    member, idle = pool.members
    if how == "one begins":
        pool.teach(usual, [member])
    else:
        lease = Lease.on(member, pool.clock())
    Lease.on(member, pool.clock())
    if how != "one begins":
        pool.clock.advance(usual)
        (lease.succeed if how == "one is answered" else lease.fail)(pool.clock())
    pool.clock.advance(after)
    pool.teach(other, [idle])
    assert usual * math.exp(-after / TAU) * 2 < other < after * 2 / TOLERANCE
    assert pool.pick() is idle


def test_clients_that_start_together_do_not_probe_the_same_member_first() -> None:
    assert len({Pool(FEW, seed).start().member.id for seed in range(20)}) > 3


@BOTH_WAYS
def test_a_cold_member_gets_one_probe(size: int) -> None:
    pool = Pool(size)
    *warm, cold = pool.members
    pool.connect(warm)
    pool.teach(members=warm)
    for member in warm:
        Lease.on(member, pool.clock())
    pool.connect(pool.members)
    probes = [lease for lease in (pool.start() for _ in range(10 * size)) if lease.member is cold]
    assert len(probes) == 1
    pool.clock.advance(0.01)
    probes[0].succeed(pool.clock())
    assert any(pool.start().member is cold for _ in range(10 * size))


def test_of_members_that_all_hang_the_one_that_does_so_for_the_shortest_time_is_picked() -> None:
    for size in range(1, 6):
        for order in itertools.permutations(range(size)):
            pool = Pool(size)
            pool.teach()
            for index in order:
                pool.clock.advance(1.0)
                Lease.on(pool.members[index], pool.clock())
            pool.clock.advance(1.0)
            assert pool.pick().id == order[-1]


@BOTH_WAYS
def test_hours_do_not_matter(size: int) -> None:
    pool = Pool(size)
    pool.teach()
    failing = pool.members[0]
    for hours in (0, 1, 100, 1e5):
        pool.clock.advance(hours * 3600)
        picks = 0
        # One call at a time: whenever one is picked, nothing is in flight.
        for _ in range(size * 30):
            lease = pool.start()
            picks += lease.member is failing
            pool.clock.advance(1.0)
            (lease.fail if lease.member is failing else lease.succeed)(lease.started + 0.01)
        assert picks <= 30
        assert picks >= (2 if size == FEW else 1)


@pytest.mark.parametrize("pause", [40 * 60.0, 1e8])
@BOTH_WAYS
def test_an_end_long_after_the_last_pick(size: int, pause: float) -> None:
    pool = Pool(size)
    leases = [pool.start() for _ in range(2 * size)]
    pool.clock.advance(pause)
    ends = itertools.cycle([Lease.succeed, Lease.fail, Lease.release])
    for lease in leases:
        next(ends)(lease, pool.clock())
        assert pool.pick() in pool.members
    assert {lease.member.in_flight for lease in leases} == {0}
    pool.clock.advance(pause)
    pool.teach()
    assert len({pool.start().member for _ in range(10 * size)}) == size


def test_a_thread_that_comes_late_raises_nothing() -> None:
    pool = Pool(2)
    late = [Lease.on(pool.members[0], 0.0) for _ in range(3)]
    Lease.on(pool.members[0], 1e5).succeed(1e5)
    late[0].succeed(0.1)
    late[1].fail(0.1)
    late[2].release(10.0)
    assert pool.pick() in pool.members


@BOTH_WAYS
def test_seeded_runs_repeat_exactly(size: int) -> None:
    def run(seed: int) -> list[int]:
        pool, chance, running, picks = Pool(size, seed), random.Random(5), deque[Lease](), []
        for _ in range(500):
            running.append(pool.start(timed=chance.random() < 0.9))
            picks.append(running[-1].member.id)
            pool.clock.advance(chance.expovariate(100))
            if chance.random() < 0.9:
                chance.choice([Lease.succeed, Lease.fail, Lease.release])(running.popleft(), pool.clock())
            if chance.random() < 0.02:
                pool.connect(chance.sample(pool.members, size - 1))
        return picks

    assert run(1) == run(1)
    assert run(1) != run(2)


# --- more than are compared


@pytest.mark.parametrize("size", [COMPARED + 1, COMPARED + 2, 200])
def test_of_many_three_distinct_ones_are_compared(size: int) -> None:
    pool = Pool(size)
    for member in pool.members:
        pool.teach(0.01 * (1 + member.id), [member])
    picks = Counter(pool.pick().id for _ in range(size * 300))
    # The worst two of all are never the best of three. The best is picked whenever it is drawn, and the one in the
    # middle if both others are worse.
    assert max(picks) < size - 2
    assert picks[0] == pytest.approx(900, rel=0.2)
    assert picks[size // 2] == pytest.approx(900 / 4, rel=0.4)


@pytest.mark.parametrize("size", [COMPARED + 1, COMPARED + 2, 200])
def test_of_many_equals_each_is_drawn_alike(size: int) -> None:
    pool = Pool(size)
    pool.teach()
    picks = Counter(pool.pick() for _ in range(size * 100))
    assert len(picks) == size
    # Binomial counts with a standard deviation of 10.
    assert 50 < min(picks.values()) <= max(picks.values()) < 150


def test_of_many_those_that_stall_are_compared_by_their_stalls() -> None:
    pool = Pool(MANY)
    pool.teach()
    *hung, younger, free = pool.members
    for member in hung:
        Lease.on(member, 0.0)
    pool.clock.advance(5.0)
    Lease.on(younger, 5.0)
    pool.clock.advance(1.0)
    pool.teach(members=[free])
    picks = Counter(pool.pick() for _ in range(MANY * 100))
    # Each is picked if it is drawn, but for the younger one when it is drawn together with the free one.
    assert picks[free] == pytest.approx(300, rel=0.3)
    assert picks[younger] == pytest.approx(300, rel=0.3)
    assert len(picks) == MANY


# --- a model


class Plain:
    """What the documentation says of one member, as plainly as can be."""

    def __init__(self) -> None:
        self.average: float | None = None
        self.stamp = 0.0
        self.since: float | None = None
        self.calls: deque[tuple[float, bool]] = deque()

    @property
    def waiting(self) -> int:
        return sum(timed for _, timed in self.calls)

    def start(self, now: float, timed: bool) -> None:
        self.calls.append((now, timed))
        if timed and self.since is None:
            self.since = now if self.average is not None else now - PROBE

    def end(self, now: float, how: str) -> None:
        started, timed = self.calls.popleft()
        latency = now - started
        if how == "fail":
            self.learn(now, max(FAILURE, self.left(now), latency if timed else 0.0))
        elif timed and (how == "done" or (self.average is not None and latency > self.average)):
            weight = weight_after(now - self.stamp) if self.average is not None else 1.0
            self.learn(now, (self.average or 0.0) * (1 - weight) + latency * weight)
        if not self.waiting:
            self.since = None

    def learn(self, now: float, average: float) -> None:
        self.average = max(average, LEAST)
        self.stamp = now
        self.since = now

    def left(self, now: float) -> float:
        return (self.average or 0.0) * math.exp(-(now - self.stamp) / TAU)

    def cost(self, now: float) -> float:
        stall = 0.0 if self.since is None else now - self.since
        return max(self.left(now), stall, LEAST) * (len(self.calls) + 1)


@settings(max_examples=150)
@given(data=st.data(), size=st.integers(1, 6), seed=st.integers(0, 9))
def test_the_picked_member_costs_the_least_by_the_documented_formula(data: st.DataObject, size: int, seed: int) -> None:
    clock = FakeClock()
    harness = StrategyHarness("adaptive", size, seed=seed, clock=clock)
    plain = [Plain() for _ in range(size)]
    connected = list(range(size))
    for _ in range(data.draw(st.integers(1, 60))):
        step = data.draw(st.sampled_from(["pick", "pick", "stream", "done", "done", "fail", "drop", "time", "connect"]))
        busy = [index for index in range(size) if plain[index].calls]
        if step in ("pick", "stream"):
            index = harness.pick(timed=step == "pick")
            costs = {each: plain[each].cost(clock()) for each in connected}
            assert costs[index] <= min(costs.values()) * TOLERANCE * (1 + 1e-9)
            plain[index].start(clock(), step == "pick")
        elif step == "time":
            clock.advance(data.draw(st.sampled_from([1e-6, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1e6])))
        elif step == "connect":
            connected = sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1)))
            harness.connect(connected)
        elif busy:
            index = data.draw(st.sampled_from(busy))
            plain[index].end(clock(), step)
            if step == "drop":
                harness.drop(index)
            else:
                harness.done(index, ok=step == "done")
        for index in range(size):
            assert gauge_of(harness.members[index]).cost(clock()) == pytest.approx(plain[index].cost(clock()))


# --- threads


def written(member: Member) -> float:
    costs, place = gauge_of(member)._slot
    return float(costs[place])


def check_books(member: Member, now: float) -> None:
    """Check that what is written down about a member is what a fresh look gives, with the stall or without."""
    gauge = gauge_of(member)
    half = TAU * math.log(2)
    without = gauge._lesson[2] + half * math.log2(member.in_flight + 1)
    assert written(member) in (pytest.approx(without), pytest.approx(now + half * math.log2(gauge.cost(now))))
    assert (gauge.since < math.inf) is (member.in_flight > len(gauge._streams))
    assert (gauge.patient < math.inf) is (member.in_flight > 0)


@pytest.mark.parametrize("size", [5, MANY])
@pytest.mark.usefixtures("hasty")
def test_threads_lose_nothing(size: int) -> None:
    pool = Pool(size)
    # Some twenty seconds in the end.
    clock = itertools.count(1.0, 0.001).__next__
    pool.builder._clock = clock
    pool.connect(pool.members)
    everybody = threading.Barrier(17)
    picks: list[Counter[Member]] = []
    done = threading.Event()

    def call(number: int) -> None:
        chance, counts, running = random.Random(number), Counter[Member](), deque[Lease]()
        everybody.wait()
        for _ in range(300):
            generation = pool.generation
            member = generation.pick()
            assert member in generation.members
            counts[member] += 1
            running.append(Lease.on(member, clock(), chance.random() < 0.8))
            if chance.random() < 0.7:
                chance.choice([Lease.succeed, Lease.succeed, Lease.fail, Lease.release])(running.popleft(), clock())
        while running:
            running.pop().succeed(clock())
        picks.append(counts)

    def change() -> None:
        chance = random.Random(1)
        everybody.wait()
        while not done.is_set():
            pool.connect(chance.sample(pool.members, chance.randrange(1, size)))
            pool.connect(pool.members)

    callers = [threading.Thread(target=call, args=[number]) for number in range(16)]
    changer = threading.Thread(target=change)
    for thread in (*callers, changer):
        thread.start()
    for thread in callers:
        thread.join()
    done.set()
    changer.join()
    assert len(picks) == 16, "one of the threads raised"
    total = sum(picks, Counter[Member]())
    assert total.total() == 16 * 300
    for member in pool.members:
        assert member.in_flight == 0
        assert member.picks == total[member]
        assert gauge_of(member)._streams == []
        # A stream that began just when the last other call ended may be taken for one that waits, until somebody looks.
        now = clock()
        gauge_of(member).correct(now)
        check_books(member, now)
    now = clock()
    known = [member for member in pool.members if gauge_of(member).cost(now) > LEAST]
    assert known
    for member in known:
        assert written(member) == pytest.approx(now + TAU * math.log(gauge_of(member).cost(now)))


@pytest.mark.parametrize("timed", [True, False])
def test_more_calls_in_flight_than_logarithms_are_written_down_for(timed: bool) -> None:
    pool = Pool(1)
    pool.teach(0.01)
    leases = [pool.start(timed) for _ in range(TABLED + 2)]
    for lease in leases:
        check_books(lease.member, pool.clock())
        lease.succeed(pool.clock())
    check_books(pool.members[0], pool.clock())


class Interrupted(set[Any]):
    """Leases after whose n-th count another thread comes in."""

    def __init__(self) -> None:
        super().__init__()
        self._counts = 0
        self._work: Callable[[], object] = wrong

    def interrupt(self, count: int, work: Callable[[], object]) -> bool:
        """Do `work` after so many counts from now, 0 for never; tell whether the one before has been done."""
        done = self._counts <= 0
        self._counts, self._work = count, work
        return done

    def __len__(self) -> int:
        found = super().__len__()
        self._counts -= 1
        if not self._counts:
            self._work()
        return found


# What each needs: a call that is in flight, by its place in `RUNNING`; and what it does.
TIMED = (True, True, True, False)
OPERATIONS: dict[str, tuple[int | None, Callable[[Pool, dict[int, Lease]], object]]] = {
    "answer": (0, lambda pool, running: running[0].succeed(pool.clock())),
    "failure": (1, lambda pool, running: running[1].fail(pool.clock())),
    "early drop": (2, lambda pool, running: running[2].release(running[2].started + 0.001)),
    "late drop": (2, lambda pool, running: running[2].release(pool.clock())),
    "end of a stream": (3, lambda pool, running: running[3].succeed(pool.clock())),
    "pick": (None, lambda pool, running: pool.pick()),
    "more members": (None, lambda pool, running: pool.connect(pool.members)),
    "fewer members": (None, lambda pool, running: pool.connect(pool.members[:1])),
    "start": (None, lambda pool, running: Lease.on(pool.members[0], pool.clock())),
    "start of a stream": (None, lambda pool, running: Lease.on(pool.members[0], pool.clock(), False)),
}


@pytest.mark.parametrize("crowded", [True, False])
@pytest.mark.parametrize("other", OPERATIONS)
@pytest.mark.parametrize("one", OPERATIONS)
def test_a_thread_may_come_in_wherever_calls_are_counted(one: str, other: str, crowded: bool) -> None:
    (first, do_one), (second, do_other) = OPERATIONS[one], OPERATIONS[other]
    for point in itertools.count(1):
        member = Member(0, "a")
        member.leases = leases = Interrupted()
        pool = Pool(3, among=(member, Member(1, "a"), Member(2, "a")))
        pool.teach(5.0, pool.members[1:])
        pool.teach(0.01, [member])
        needed = range(4) if crowded else sorted({first, second} - {None})  # type: ignore[type-var]
        running = {index: Lease.on(member, pool.clock(), TIMED[index]) for index in needed}  # type: ignore[index, misc]
        pool.clock.advance(1.0)
        leases.interrupt(point, lambda: do_other(pool, running))  # noqa: B023 - used up before the next turn
        do_one(pool, running)
        came = leases.interrupt(0, wrong)
        if not one.startswith("start"):
            check_books(member, pool.clock())
        # Who begins does not look twice; at the latest it is right when that call has ended.
        for lease in list(leases):
            lease.succeed(pool.clock())
            check_books(member, pool.clock())
        assert member.in_flight == 0
        if not came:
            break
    # A pick while nobody waits counts nobody.
    assert point > 1 or (one == "pick" and not any(TIMED[index] for index in needed))


def check_that_a_hang_is_seen(pool: Pool) -> None:
    member, other = pool.members
    pool.clock.advance(60.0)
    pool.teach(1.0, [other])
    assert pool.pick() is other
    assert gauge_of(member).since < math.inf
    assert gauge_of(member).patient < math.inf


def test_ctrl_c_in_a_beginning_does_not_hide_that_others_hang() -> None:
    for step in itertools.count(1):
        pool = Pool(2)
        pool.teach()
        member, lease = pool.members[0], Lease()

        def happens() -> None:
            Lease.on(member, pool.clock())  # noqa: B023 - used up before the next turn
            strike()

        moment = Moment(step, happens, adaptive.__file__)
        with moment.awaited(), suppress(KeyboardInterrupt):
            lease.begin(member, pool.clock())
        if moment.left > 0:
            break
        lease.cancel(pool.clock())
        Lease.on(member, pool.clock())
        check_that_a_hang_is_seen(pool)
    assert step > 5


@pytest.mark.parametrize("end", [Lease.succeed, Lease.fail, Lease.release])
def test_a_call_dropped_while_the_last_one_ends_does_not_hide_that_the_next_one_hangs(
    end: Callable[[Lease, float], object],
) -> None:
    for step in itertools.count(1):
        pool = Pool(2)
        pool.teach()
        member = pool.members[0]
        last = Lease.on(member, pool.clock())

        def happens() -> None:
            # The first half of a drop, ...
            member.leases.remove(Lease.on(member, pool.clock()))  # noqa: B023 - used up before the next turn

        moment = Moment(step, happens, adaptive.__file__)
        with moment.awaited():
            end(last, pool.clock())
        if moment.left > 0:
            break
        Lease.on(member, pool.clock())
        # ... and the second.
        gauge_of(member).dropped(pool.clock(), 0.0)
        check_that_a_hang_is_seen(pool)
    assert step > 5


def test_a_stream_that_begins_just_when_the_last_call_ends_is_not_waited_for() -> None:
    pool = Pool(2)
    pool.teach(0.01)
    member, other = pool.members
    call = Lease.on(member, 0.0)
    # The first half of a beginning, ...
    member.leases.add("stream")
    call.succeed(pool.clock())
    # ... and the second.
    gauge_of(member).started(pool.clock(), False)
    Lease.on(other, pool.clock(), False)
    Lease.on(other, pool.clock(), False)
    pool.clock.advance(1.0)
    assert pool.pick() is member
    assert gauge_of(member).since == math.inf
    check_books(member, pool.clock())


@BOTH_WAYS
def test_costs_that_change_while_they_are_compared(size: int) -> None:
    class Restless(float):
        """A cost in place of which, as soon as it is looked at, there is another."""

        def __lt__(self, cost: float) -> bool:
            costs[place] = math.inf
            return super().__lt__(cost)

    pool = Pool(size)
    pool.teach()
    costs, place = gauge_of(pool.members[0])._slot
    for _ in range(size):
        costs[place] = Restless(-1e9)
        assert pool.pick() in pool.members
    assert costs[place] == math.inf or size > COMPARED


def test_a_picker_of_old_comes_to_an_end() -> None:
    pool = Pool(3)
    pool.teach()
    pick = pool.generation.pick
    # What happens is written down for the new one only.
    pool.connect(pool.members)
    for member in pool.members:
        Lease.on(member, pool.clock())
    pool.clock.advance(10.0)
    assert pick() in pool.members
