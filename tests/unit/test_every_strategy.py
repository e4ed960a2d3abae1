"""What holds for every strategy that there is, the installed ones included."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpcpool import affinity
from grpcpool.keys import Key
from grpcpool.strategies import Clock, LeastInFlight, Member, available
from grpcpool.testing import FakeClock, StrategyHarness

SIZES = [1, 2, 3, 17, 40]


class Installed(LeastInFlight):
    """Somebody else's strategy."""


class InstalledAndKeyed:
    """Somebody else's strategy, which routes by key."""

    keyed = True

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> Any:
        pool = tuple(members)

        def pick(key: Key | None = None) -> Member:
            if key is None:
                return rng.choice(pool)
            return pool[crc32(key.encode() if isinstance(key, str) else key) % len(pool)]

        return pick


ENTRY_POINTS = [
    metadata.EntryPoint("installed", f"{__name__}:Installed", "grpcpool.strategies"),
    metadata.EntryPoint("installed_and_keyed", f"{__name__}:InstalledAndKeyed", "grpcpool.strategies"),
]
NAMES = (*available(), "installed", "installed_and_keyed")

every_strategy = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True, scope="module")
def installed() -> Any:
    """Install a distribution's entry points, as pip would, beside those that are installed."""
    there = metadata.entry_points

    def entry_points(**selected: str) -> Any:
        return [*there(**selected), *(ENTRY_POINTS if selected == {"group": "grpcpool.strategies"} else [])]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "entry_points", entry_points)
        yield


class Caller:
    """Calls through a harness, each call with a key of its own, or with none."""

    def __init__(self, name: str, size: int, seed: int = 0) -> None:
        self.clock = FakeClock()
        self.harness = StrategyHarness(name, size, seed=seed, clock=self.clock)
        self.chance = random.Random(seed)

    def start(self, *, keyed: bool = True) -> int:
        """Start a call and return the index of its member."""
        key = f"user-{self.chance.getrandbits(30)}"
        with affinity(key) if keyed else contextlib.nullcontext():
            return self.harness.pick()

    def call(self, *, keyed: bool = True) -> int:
        """Make a call of 10 ms and return the index of its member."""
        index = self.start(keyed=keyed)
        self.clock.advance(0.01)
        self.harness.done(index, latency=0.01)
        return index


def test_no_strategy_is_left_out() -> None:
    assert set(NAMES) == set(available())


@pytest.mark.parametrize("name", ["consistent_hash", "installed_and_keyed"])
def test_those_that_route_by_key_are_given_it(name: str) -> None:
    caller = Caller(name, 10)
    by_key: dict[str, set[int]] = {}
    for number in range(200):
        key = f"user-{number % 40}"
        with affinity(key):
            by_key.setdefault(key, set()).add(caller.call(keyed=False))
    assert all(len(found) == 1 for found in by_key.values())
    assert len(set.union(*by_key.values())) > 5
    assert len({caller.call(keyed=False) for _ in range(200)}) == 10


@settings(max_examples=25)
@given(data=st.data(), size=st.integers(1, 12), seed=st.integers(0, 99))
@every_strategy
def test_only_members_of_the_generation_are_picked(name: str, data: st.DataObject, size: int, seed: int) -> None:
    caller = Caller(name, size, seed)
    harness = caller.harness
    connected = set(range(size))
    running: Counter[int] = Counter()
    for _ in range(20):
        if data.draw(st.integers(0, 3)) == 0:
            connected = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
            harness.connect(connected)
        index = caller.start(keyed=data.draw(st.booleans()))
        running[index] += 1
        assert index in connected
        caller.clock.advance(data.draw(st.sampled_from([0.0, 0.001, 1.0, 1000.0])))
        if data.draw(st.booleans()):
            ended = data.draw(st.sampled_from(sorted(+running)))
            harness.done(ended, latency=data.draw(st.sampled_from([None, 0.0, 0.01, 5.0])), ok=data.draw(st.booleans()))
            running[ended] -= 1
        assert harness.in_flight() == tuple(running[index] for index in range(size))


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("size", SIZES)
@every_strategy
def test_every_member_is_reached_and_equal_ones_about_equally_often(name: str, size: int, keyed: bool) -> None:
    caller = Caller(name, size, seed=5)
    counts = Counter(caller.call(keyed=keyed) for _ in range(size * 100))
    assert set(counts) == set(range(size))
    assert max(counts.values()) <= 2 * 100


@pytest.mark.parametrize("size", SIZES)
@every_strategy
def test_equal_members_that_are_busy_get_about_equally_much(name: str, size: int) -> None:
    caller = Caller(name, size, seed=7)
    running = [caller.start() for _ in range(2 * size)]
    counts: Counter[int] = Counter()
    for _ in range(size * 100):
        caller.clock.advance(0.01 / size)
        caller.harness.done(running.pop(caller.chance.randrange(len(running))), latency=0.02)
        running.append(caller.start())
        counts[running[-1]] += 1
    assert set(counts) == set(range(size))
    assert max(counts.values()) <= 2 * 100


@every_strategy
def test_members_that_come_and_go_do_not_send_the_traffic_to_a_few(name: str) -> None:
    caller = Caller(name, 10, seed=1)
    counts: Counter[int] = Counter()
    for _ in range(2000):
        caller.harness.connect(range(10))
        counts[caller.call()] += 1
    assert max(counts.values()) <= 2 * 200
    assert min(counts.values()) >= 200 / 2


@every_strategy
def test_a_run_with_the_same_seed_repeats_exactly(name: str) -> None:
    def run(seed: int) -> list[int]:
        caller = Caller(name, 10, seed)
        chance, picks, running = random.Random(3), [], []
        for step in range(300):
            if step % 50 == 0:
                caller.harness.connect(chance.sample(range(10), 7))
            picks.append(caller.start(keyed=step % 3 > 0))
            running.append(picks[-1])
            caller.clock.advance(chance.expovariate(100))
            if chance.random() < 0.8:
                caller.harness.done(running.pop(chance.randrange(len(running))), ok=chance.random() < 0.9)
        return picks

    assert run(1) == run(1)
    # With ten places to begin at, two rotations may well begin at the same; eight hardly ever all do.
    assert len({tuple(run(seed)) for seed in range(8)}) > 1


@every_strategy
def test_nothing_is_lost_among_threads(name: str) -> None:
    harness = StrategyHarness(name, 5, seed=1)
    everybody = threading.Barrier(16)
    picks: list[Counter[int]] = []

    def work(number: int) -> None:
        counts: Counter[int] = Counter()
        everybody.wait()
        for step in range(100):
            with affinity(f"user {number} {step}"):
                index = harness.pick()
            counts[index] += 1
            harness.done(index, latency=0.01, ok=step % 10 > 0)
        picks.append(counts)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=[number]) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(picks) == 16, "one of the threads raised"
    assert harness.in_flight() == (0,) * 5
    total = sum(picks, Counter())
    assert total.total() == 1600
    assert [member.picks for member in harness.members] == [total[index] for index in range(5)]
    assert set(total) == set(range(5))


@every_strategy
def test_a_pick_takes_no_memory_in_proportion_to_the_pool(name: str) -> None:
    def peak(size: int) -> int:
        """Return what 1,000 picks take at most, above what is there before."""
        caller = Caller(name, size)
        for _ in range(size):
            caller.start()
        pick = caller.harness._generation.pick
        with affinity("somebody"):
            # What is made once, on first use, is not a pick's.
            pick()
            tracemalloc.start()
            try:
                before, _ = tracemalloc.get_traced_memory()
                for _ in range(1000):
                    pick()
                return tracemalloc.get_traced_memory()[1] - before
            finally:
                tracemalloc.stop()

    # A thousand members in a tuple would be 8 kB.
    assert peak(1024) <= peak(8) + 1000
