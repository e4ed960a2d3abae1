"""What each of the choice rules adds: `least_in_flight`, `weighted_round_robin`, `consistent_hash`."""

from __future__ import annotations

import itertools
import math
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpcpool.core.generation import GenerationBuilder
from grpcpool.core.lease import Lease
from grpcpool.core.member import Member
from grpcpool.keys import Key
from grpcpool.strategies import ConsistentHash, LeastInFlight, WeightedRoundRobin
from grpcpool.strategies.consistent_hash import POINTS
from grpcpool.strategies.least_in_flight import TABLED
from grpcpool.strategies.weighted_round_robin import SLOTS, _interleave, _slots
from grpcpool.testing import FakeClock, StrategyHarness


def members(*endpoints: str, weights: Sequence[float] = ()) -> list[Member]:
    weights = weights or [1] * len(endpoints)
    pairs = zip(endpoints, weights, strict=True)
    return [Member(index, endpoint, weight=weight) for index, (endpoint, weight) in enumerate(pairs)]


def equip(strategy: Any, among: Sequence[Member]) -> None:
    """Let the strategy measure the members, as a pool does."""
    builder = GenerationBuilder(
        strategy, rng=random.Random(0), clock=FakeClock(), not_connected=fail, no_channel=fail, on_error=fail
    )
    builder.build(tuple(among), ())


def fail(*problem: str) -> NoReturn:
    raise AssertionError(*problem)


def build(strategy: Any, among: Sequence[Member], seed: int = 0) -> Any:
    """Return the strategy's own picker."""
    return strategy.build(tuple(among), rng=random.Random(seed), clock=FakeClock())


def by_threads(count: int, work: Callable[[], Any]) -> list[Any]:
    """Do the work in so many threads, which start at the same time and are interrupted as often as can be."""
    results: list[Any] = []
    everybody = threading.Barrier(count)

    def run() -> None:
        everybody.wait()
        results.append(work())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(results) == count, "one of the threads raised"
    return results


# --- least in flight

BOTH_WAYS = pytest.mark.parametrize("size", [8, TABLED, TABLED + 1])


@settings(max_examples=80)
@given(
    data=st.data(),
    size=st.sampled_from([1, 2, 5, TABLED, TABLED + 1, 50]),
    seed=st.integers(0, 99),
)
def test_least_in_flight_picks_one_of_the_fewest(data: st.DataObject, size: int, seed: int) -> None:
    harness = StrategyHarness("least_in_flight", size, seed=seed)
    for _ in range(2 * size):
        before = harness.in_flight()
        assert before[harness.pick()] == min(before)
    for index in data.draw(st.lists(st.integers(0, size - 1), unique=True)):
        for _ in range(data.draw(st.integers(0, 2))):
            harness.done(index)
    for _ in range(2 * size):
        before = harness.in_flight()
        assert before[harness.pick()] == min(before)


@BOTH_WAYS
def test_least_in_flight_lets_equals_take_turns(size: int) -> None:
    harness = StrategyHarness("least_in_flight", size, seed=1)
    turns = [harness.pick() for _ in range(size)]
    assert turns == [(turns[0] + step) % size for step in range(size)]
    assert [harness.pick() for _ in range(size)] == turns, "busy ones in the same order"
    for index in range(size):
        harness.done(index)
    # A few are rid of their calls. Whether their neighbours are busy makes no difference to how often they are taken.
    free = {1, 2, 3, size - 1}
    for index in free:
        harness.done(index)
    counts: Counter[int] = Counter()
    for _ in range(100 * len(free)):
        index = harness.pick()
        counts[index] += 1
        harness.done(index)
    assert counts == dict.fromkeys(free, 100)


@BOTH_WAYS
def test_least_in_flight_picks_the_same_again_if_it_is_the_only_free_one(size: int) -> None:
    harness = StrategyHarness("least_in_flight", size, seed=1)
    last = [harness.pick() for _ in range(size)][-1]
    harness.done(last)
    assert harness.pick() == last


@BOTH_WAYS
def test_least_in_flight_begins_anywhere(size: int) -> None:
    first = {StrategyHarness("least_in_flight", size, seed=seed).pick() for seed in range(20)}
    assert len(first) > 5


@BOTH_WAYS
def test_least_in_flight_spreads_the_work_of_many_threads(size: int) -> None:
    pool = members(*map(str, range(size)))
    pick = build(LeastInFlight(), pool)
    by_threads(16, lambda: [Lease.on(pick(), 0.0) for _ in range(100)])
    loads = [member.in_flight for member in pool]
    assert sum(loads) == 1600
    # Alone they would all have the same. Each thread can be one pick behind the others, at most.
    assert max(loads) - min(loads) <= 16


# --- weighted round robin

WEIGHTS = st.lists(st.integers(1, 60), min_size=1, max_size=12).map(tuple)


@settings(max_examples=100)
@given(WEIGHTS)
def test_a_rotation_never_leaves_anyone_a_whole_turn_from_its_share(slots: tuple[int, ...]) -> None:
    rotation = _interleave(slots)
    total = sum(slots)
    assert Counter(rotation) == dict(enumerate(slots))
    counts = [0] * len(slots)
    for length, index in enumerate(rotation, 1):
        counts[index] += 1
        assert all(abs(count * total - length * slot) < total for count, slot in zip(counts, slots, strict=True))


@pytest.mark.parametrize(
    ("weights", "slots"),
    [
        ([1], (1,)),
        ([7, 7, 7], (1, 1, 1)),
        ([0.5, 1.5], (1, 3)),
        ([30, 50, 20], (3, 5, 2)),
        ([0.1, 0.2, 0.3], (1, 2, 3)),
        ([1e300, 1e300], (1, 1)),
        ([2, 2.5], (4, 5)),
        ([1] * 5000 + [2], (1,) * 5000 + (1,)),
    ],
)
def test_a_rotation_is_as_short_as_the_weights_allow(weights: list[float], slots: tuple[int, ...]) -> None:
    assert _slots(weights) == slots


@settings(max_examples=100)
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=10))
def test_weights_that_do_not_fit_are_rounded(weights: list[float]) -> None:
    slots = _slots(weights)
    total = sum(slots)
    assert total <= SLOTS
    exact = [Fraction(str(weight)) for weight in weights]
    for slot, weight in zip(slots, exact, strict=True):
        assert abs(Fraction(slot, total) - weight / sum(exact)) < Fraction(1, SLOTS)


def test_who_is_due_less_than_a_slot_gets_one() -> None:
    assert _slots([1e-300, 1, 5e-324, 1e9]) == (1, 1, 1, SLOTS - 1)


def test_weighted_round_robin_interleaves() -> None:
    pool = members("a", "b", "c", weights=[3, 1, 1])
    pick = build(WeightedRoundRobin(), pool)
    twice = "".join(pick().endpoint for _ in range(10))
    assert twice[:5] == twice[5:]
    assert "aabac" in twice


@settings(max_examples=50)
@given(
    endpoints=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_the_traffic_of_endpoints_follows_their_weights_whatever_their_members(
    endpoints: list[tuple[int, int]], seed: int
) -> None:
    kinds = [(f"{index}", weight) for index, (weight, count) in enumerate(endpoints) for _ in range(count)]
    pool = members(*(name for name, _ in kinds), weights=[weight for _, weight in kinds])
    random.Random(seed).shuffle(pool)
    pick = build(WeightedRoundRobin(), pool, seed)
    # After so many rotations each endpoint has gone round its members a whole number of times.
    rounds = math.lcm(*(count for _, count in endpoints))
    counts = Counter(pick() for _ in range(rounds * sum(weight for weight, _ in endpoints)))
    for member in pool:
        weight, count = endpoints[int(member.endpoint)]
        assert counts[member] == rounds * weight // count


def test_the_others_share_the_traffic_of_an_endpoint_that_is_gone() -> None:
    pool = members("a", "b", "b", "c", weights=[5, 2, 2, 1])
    strategy = WeightedRoundRobin()
    build(strategy, pool)
    pick = build(strategy, pool[1:])
    assert Counter(pick().endpoint for _ in range(30)) == {"b": 20, "c": 10}


def test_no_step_of_a_weighted_rotation_is_lost_or_given_twice() -> None:
    pool = members("a", "a", "b", "c", weights=[5, 5, 2, 1])
    pick = build(WeightedRoundRobin(), pool)
    counts: Counter[Member] = Counter()
    for picks in by_threads(16, lambda: [pick() for _ in range(5 * 8 * 4)]):
        counts.update(picks)
    assert [counts[member] for member in pool] == [800, 800, 640, 320]


def test_a_weighted_rotation_begins_anywhere() -> None:
    pool = members("a", "a", "b", weights=[3, 3, 1])
    strategy, rng = WeightedRoundRobin(), random.Random(1)
    counts = Counter(strategy.build(pool, rng=rng, clock=FakeClock())() for _ in range(8000))
    # Binomial counts: of 2,000 the standard deviation is below 45.
    for member, expected in zip(pool, (3000, 3000, 2000), strict=True):
        assert abs(counts[member] - expected) < 225


# --- consistent hash

KEYS = [f"user-{number}" for number in range(2000)]


class Ring:
    """A pool with a consistent hash, without a network."""

    def __init__(self, pool: Iterable[Member], strategy: ConsistentHash | None = None) -> None:
        self.strategy = ConsistentHash() if strategy is None else strategy
        self.running: list[Lease] = []
        self.connect(pool)

    def connect(self, pool: Iterable[Member]) -> None:
        self.pool = list(pool)
        equip(self.strategy, self.pool)
        self.pick: Callable[[Key | None], Member] = build(self.strategy, self.pool)

    def start(self, key: Key) -> Member:
        lease = Lease.on(self.pick(key), 0.0)
        self.running.append(lease)
        return lease.member

    def homes(self, keys: Iterable[Key] = KEYS) -> dict[Key, Member]:
        assert not self.running
        return {key: self.pick(key) for key in keys}


@pytest.fixture
def ten() -> list[Member]:
    return members(*(f"10.0.0.{number}:50051" for number in range(10)))


def test_places_are_the_same_in_every_process_and_in_every_version(ten: list[Member]) -> None:
    # If this fails, everybody's caches go cold when they upgrade.
    homes = Ring(ten).homes([*(f"user-{number}" for number in range(12)), "ключ", b"\0\xff"])
    assert [member.id for member in homes.values()] == [1, 9, 6, 4, 2, 9, 5, 7, 7, 5, 0, 1, 4, 4]


def test_text_is_the_same_key_as_its_utf8(ten: list[Member]) -> None:
    ring = Ring(ten)
    for key in KEYS[:100]:
        assert ring.pick(key + "ключ") is ring.pick((key + "ключ").encode())


def test_what_is_no_text_has_a_place_too(ten: list[Member]) -> None:
    ring = Ring(ten)
    assert len({ring.pick(f"{number}\ud800") for number in range(100)}) == 10


def test_the_parts_of_equal_members_are_about_equal(ten: list[Member]) -> None:
    counts = Counter(Ring(ten).homes().values())
    assert 0.7 * 200 < min(counts.values()) <= max(counts.values()) < 1.3 * 200


@settings(max_examples=30)
@given(size=st.integers(1, 40), prefix=st.text(max_size=8))
def test_a_member_that_joins_takes_its_part_and_nothing_else_moves(size: int, prefix: str) -> None:
    pool = members(*(f"{prefix}{number}" for number in range(size + 1)))
    ring = Ring(pool[:size])
    before = ring.homes()
    ring.connect(pool)
    after = ring.homes()
    moved = [key for key in KEYS if after[key] is not before[key]]
    assert moved
    assert all(after[key] is pool[size] for key in moved)
    # And when it leaves again, everything is as it was.
    ring.connect(pool[:size])
    assert ring.homes() == before


@pytest.mark.parametrize("size", [1, 2, 5, 10, 20, 40])
def test_a_member_that_joins_moves_no_more_than_half_as_many_keys_again_as_it_must(size: int) -> None:
    pool = members(*(f"10.0.0.{number}:50051" for number in range(size + 1)))
    # So many that who happens to be asked for makes no difference.
    keys = [f"user-{number}" for number in range(1000 * size)]
    ring = Ring(pool[:size])
    before = ring.homes(keys)
    ring.connect(pool)
    moved = sum(home is not before[key] for key, home in ring.homes(keys).items())
    assert 0.5 / (size + 1) * len(keys) < moved <= 1.5 / size * len(keys)


@settings(max_examples=40)
@given(data=st.data(), size=st.integers(2, 12), endpoints=st.integers(1, 12))
def test_a_key_stays_while_its_member_is_there(data: st.DataObject, size: int, endpoints: int) -> None:
    pool = members(*(f"host-{number % endpoints}" for number in range(size)))
    ring = Ring(pool)
    keys = KEYS[:200]
    everybody = before = ring.homes(keys)
    for _ in range(5):
        here = data.draw(st.lists(st.sampled_from(pool), min_size=1, unique=True))
        gone = set(ring.pool).difference(here)
        came = set(here).difference(ring.pool)
        ring.connect(here)
        after = ring.homes(keys)
        for key in keys:
            assert after[key] is before[key] or before[key] in gone or after[key] in came
        before = after
    # Nobody new has come, so those who come back find their old places, in whatever order they do.
    ring.connect(pool)
    assert ring.homes(keys) == everybody


def test_a_successor_gets_the_keys_of_its_predecessor() -> None:
    old = members("a", "a", "a", "b")
    ring = Ring(old)
    before = ring.homes()
    successor = Member(17, "a")
    ring.connect([old[0], old[2], old[3], successor])
    assert ring.homes() == {key: successor if home is old[1] else home for key, home in before.items()}
    # The predecessor is only back when there is room for one more.
    ring.connect([*old, successor])
    back = ring.homes()
    assert all(back[key] in (home, old[1]) for key, home in ring_without(before, old[1], successor).items())


def ring_without(homes: dict[Key, Member], gone: Member, instead: Member) -> dict[Key, Member]:
    return {key: instead if home is gone else home for key, home in homes.items()}


def test_parts_follow_the_weights_and_do_not_depend_on_who_is_connected() -> None:
    pool = members("light", "heavy", "middle", weights=[1, 4, 2])
    ring = Ring(pool)
    before = ring.homes()
    counts = Counter(member.endpoint for member in before.values())
    assert counts["light"] / len(KEYS) == pytest.approx(1 / 7, rel=0.35)
    assert counts["middle"] / len(KEYS) == pytest.approx(2 / 7, rel=0.3)
    assert counts["heavy"] / len(KEYS) == pytest.approx(4 / 7, rel=0.2)
    ring.connect([pool[0], pool[2]])
    after = ring.homes()
    assert all(after[key] is home for key, home in before.items() if home is not pool[1])


def test_the_lightest_has_a_place() -> None:
    pool = members("feather", "rock", weights=[1, 1000 * POINTS])
    keys = (f"key {number}" for number in itertools.count())
    ring = Ring(pool)
    assert any(ring.pick(next(keys)) is pool[0] for _ in range(20_000))


@settings(max_examples=60)
@given(
    data=st.data(),
    weights=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    bound=st.sampled_from([1.25, 1.5, 2.0]),
)
def test_a_key_goes_to_its_member_up_to_the_bound_and_not_beyond(
    data: st.DataObject, weights: list[int], bound: float
) -> None:
    pool = members(*(f"host-{index}" for index in range(len(weights))), weights=weights)
    ring = Ring(pool, ConsistentHash(bound))
    homes = build(ConsistentHash(math.inf), pool)
    mass = sum(weights)
    for _ in range(data.draw(st.integers(1, 8))):
        # Everybody asks for the same few keys.
        for key in data.draw(st.lists(st.sampled_from("abc"), max_size=40)):
            total = sum(member.in_flight for member in pool)
            limits = [math.ceil(Fraction(bound) * (total + 1) * weight / mass) for weight in weights]
            home = homes(key)
            free = home.in_flight < limits[home.id]
            chosen = ring.pick(key)
            assert ring.start(key) is chosen, "looking changes nothing"
            assert chosen.in_flight <= limits[chosen.id]
            assert (chosen is home) is free
        for _ in range(data.draw(st.integers(0, len(ring.running)))):
            end = data.draw(st.sampled_from([Lease.succeed, Lease.fail, Lease.release]))
            end(ring.running.pop(data.draw(st.integers(0, len(ring.running) - 1))), 1.0)


@settings(max_examples=20)
@given(st.integers(1, 20), st.integers(1, 8))
def test_one_hot_key_loads_nobody_above_the_bound(size: int, each: int) -> None:
    ring = Ring(members(*(f"host-{index}" for index in range(size))))
    for _ in range(size * each):
        ring.start("hot")
    loads = [member.in_flight for member in ring.pool]
    assert max(loads) == min(size * each, math.ceil(1.25 * each))


def test_what_overflows_goes_to_the_next_in_the_keys_own_order(ten: list[Member]) -> None:
    ring = Ring(ten)
    seconds: Counter[Member] = Counter()
    for key in KEYS[:100]:
        first = ring.pick(key)
        lease = Lease.on(first, 0.0)
        second = ring.pick(key)
        assert second is not first
        assert ring.pick(key) is second
        seconds[second] += 1
        lease.succeed(1.0)
        # The same as if the first were not there at all.
        ring.connect(member for member in ten if member is not first)
        assert ring.pick(key) is second
        ring.connect(ten)
        assert ring.pick(key) is first
    assert set(seconds) == set(ten)


def test_without_a_bound_a_key_never_leaves(ten: list[Member]) -> None:
    ring = Ring(ten, ConsistentHash(bound=math.inf))
    assert len({ring.start("hot") for _ in range(100)}) == 1


@pytest.mark.parametrize("bound", [1, 0.5, -2, math.nan])
def test_a_bound_that_cannot_be_kept_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="bound must be a number above 1, not"):
        ConsistentHash(bound)


def test_rpcs_on_members_that_have_left_do_not_raise_the_bound(ten: list[Member]) -> None:
    ring = Ring(ten)
    streams = [Lease.on(ten[0], 0.0, False) for _ in range(100)]
    ring.connect(ten[1:])
    # With nothing in flight on the others, nobody gets a second one: neither while the streams last, ...
    assert [ring.start("hot") for _ in range(4)] == list(dict.fromkeys(lease.member for lease in ring.running))
    for lease in streams[:50]:
        lease.succeed(1.0)
    assert ring.start("hot") not in [lease.member for lease in ring.running[:-1]]
    # ... nor when they have ended, ...
    for lease in streams[50:]:
        lease.release(1.0)
    assert ring.start("hot") not in [lease.member for lease in ring.running[:-1]]
    # ... nor when the member is back, without them.
    ring.connect(ten)
    assert ring.start("hot") not in [lease.member for lease in ring.running[:-1]]
    assert len(ring.running) == 7


def test_members_that_are_gone_are_forgotten(ten: list[Member]) -> None:
    ring = Ring(ten)
    ring.connect(members("10.0.0.99:50051"))
    ten.clear()
    assert len(ring.strategy._load.known) == 1


def test_somebody_is_picked_even_if_all_have_too_many(ten: list[Member]) -> None:
    ring = Ring(ten)
    home = ring.pick("mine")
    for member in ten:
        # Unknown to the count, as what another thread starts at this very moment.
        member.leases.add("another")
    assert ring.pick("mine") is home


def test_a_call_without_a_key_goes_to_the_less_loaded_of_two() -> None:
    ring = Ring(members("a", "b"))
    for _ in range(100):
        before = [member.in_flight for member in ring.pool]
        member = ring.pick(None)
        assert before[member.id] == min(before)
        ring.running.append(Lease.on(member, 0.0))
    assert Counter(lease.member.id for lease in ring.running) == {0: 50, 1: 50}


def test_the_count_is_right_after_many_threads(ten: list[Member]) -> None:
    ring = Ring(ten)
    numbers = itertools.count()

    def work() -> None:
        for number in range(100):
            lease = Lease.on(ring.pick(f"user-{next(numbers) % 50}"), 0.0)
            (lease.succeed, lease.fail, lease.release)[number % 3](1.0)

    by_threads(16, work)
    assert [member.in_flight for member in ten] == [0] * 10
    # One that is off would be seen: with one in flight where none is, a member could have two before all have one.
    ring.start("hot")
    for busy in range(1, 8):
        assert ring.start("hot").in_flight == 1
        assert sum(member.in_flight for member in ten) == busy + 1


def test_the_bound_holds_among_threads(ten: list[Member]) -> None:
    ring = Ring(ten)
    by_threads(16, lambda: [Lease.on(ring.pick("hot"), 0.0) for _ in range(50)])
    loads = [member.in_flight for member in ten]
    assert sum(loads) == 800
    # A thread that was interrupted between its pick and its lease comes on top: one for each thread at most.
    assert max(loads) <= math.ceil(1.25 * 80) + 16
