"""What holds for every strategy, and what each of the built-in ones adds."""

from __future__ import annotations

import random
from collections import Counter
from importlib import metadata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpcpool.errors import ConfigError
from grpcpool.strategies import PowerOfTwo, Random, RoundRobin, available, resolve
from grpcpool.strategies.power_of_two import TABLED
from grpcpool.testing import FakeClock, StrategyHarness


@pytest.fixture(params=available())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- every strategy


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_every_member_is_reached_and_none_far_too_often(name: str, size: int) -> None:
    harness = StrategyHarness(name, size, seed=5)
    picks = size * 200
    counts: Counter[int] = Counter()
    for _ in range(picks):
        index = harness.pick()
        counts[index] += 1
        harness.done(index, latency=0.01)
    assert set(counts) == set(range(size))
    assert max(counts.values()) <= 2 * picks / size


@settings(max_examples=60)
@given(data=st.data(), size=st.integers(1, 12), seed=st.integers(0, 99))
def test_only_connected_members_are_picked_and_the_books_are_right(data: st.DataObject, size: int, seed: int) -> None:
    harness = StrategyHarness(data.draw(st.sampled_from(available())), size, seed=seed)
    connected = set(range(size))
    running: Counter[int] = Counter()
    for _ in range(30):
        if data.draw(st.booleans()):
            connected = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
            harness.connect(connected)
        index = harness.pick()
        running[index] += 1
        assert index in connected
        if data.draw(st.booleans()):
            harness.done(index, ok=data.draw(st.booleans()))
            running[index] -= 1
        assert harness.in_flight() == tuple(running[index] for index in range(size))


def test_the_same_seed_gives_the_same_picks_and_another_gives_others(name: str) -> None:
    def run(seed: int) -> list[int]:
        harness = StrategyHarness(name, 16, seed=seed)
        return [harness.pick() for _ in range(50)]

    assert run(3) == run(3)
    # With sixteen places to begin at, two rotations may well begin at the same; eight hardly ever all do.
    assert len({tuple(run(seed)) for seed in range(8)}) > 1


def test_churn_does_not_send_the_traffic_to_the_first_members(name: str) -> None:
    harness = StrategyHarness(name, 10, seed=1)
    counts: Counter[int] = Counter()
    for _ in range(2000):
        harness.connect(range(10))
        index = harness.pick()
        counts[index] += 1
        harness.done(index)
    assert max(counts.values()) <= 2 * 200
    assert min(counts.values()) >= 200 / 2


# --- each by itself


def test_round_robin_takes_each_in_turn() -> None:
    harness = StrategyHarness("round_robin", 5, seed=1)
    first = [harness.pick() for _ in range(5)]
    assert sorted(first) == [0, 1, 2, 3, 4]
    assert [harness.pick() for _ in range(5)] == first
    assert first == [(first[0] + step) % 5 for step in range(5)]


def test_random_has_no_memory() -> None:
    harness = StrategyHarness("random", 2, seed=1)
    pairs = Counter((harness.pick(), harness.pick()) for _ in range(2000))
    assert set(pairs) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert min(pairs.values()) > 400


def test_power_of_two_never_picks_the_busiest_of_two() -> None:
    harness = StrategyHarness("power_of_two", 2, seed=1)
    for _ in range(100):
        before = harness.in_flight()
        index = harness.pick()
        assert before[index] == min(before)


def test_power_of_two_never_picks_the_busiest_of_all() -> None:
    harness = StrategyHarness("power_of_two", 5, seed=2)
    harness.pick()
    (busy,) = [index for index, count in enumerate(harness.in_flight()) if count]
    for _ in range(500):
        index = harness.pick()
        assert index != busy
        harness.done(index)


@pytest.mark.parametrize("size", [2, 3, 5, 8, TABLED + 1])
def test_power_of_two_draws_every_ordered_pair_of_distinct_members_alike(size: int) -> None:
    class Spy:
        """A member that notes when it is looked at, and is never busy."""

        def __init__(self, index: int) -> None:
            self.index = index

        @property
        def leases(self) -> tuple[()]:
            looks.append(self.index)
            return ()

    looks: list[int] = []
    picker = PowerOfTwo().build([Spy(i) for i in range(size)], rng=random.Random(1), clock=FakeClock())  # type: ignore[misc]
    each = 2000 if size <= 8 else 100
    draws = each * size * (size - 1)
    pairs: Counter[tuple[int, int]] = Counter()
    for _ in range(draws):
        looks.clear()
        chosen: Any = picker()
        second, first = looks
        assert chosen.index == first, "of two equals the first drawn is taken"
        pairs[first, second] += 1
    assert len(pairs) == size * (size - 1)
    assert all(first != second for first, second in pairs)
    # Binomial counts: one of 2,000 has a standard deviation of 45. Five of them happen once in a million.
    assert all(abs(count - each) < 5 * each**0.5 for count in pairs.values())


# --- finding them


def test_the_built_in_ones_have_names() -> None:
    assert available()[:3] == ("round_robin", "random", "power_of_two")
    assert [type(resolve(each)) for each in available()[:3]] == [RoundRobin, Random, PowerOfTwo]


def test_a_strategy_is_taken_as_it_is() -> None:
    strategy = RoundRobin()
    assert resolve(strategy) is strategy


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="strategy: 'robin' is not allowed; one of round_robin, random, power_of_two"):
        resolve("robin")


@pytest.mark.parametrize("wrong", [RoundRobin, 42, None, object()])
def test_what_has_no_build_method_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="build"):
        resolve(wrong)
    with pytest.raises(TypeError):
        resolve(wrong)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a distribution's entry points, as pip would."""
    group = "grpcpool.strategies"
    here = __name__
    found = [
        metadata.EntryPoint("mine", f"{here}:Mine", group),
        metadata.EntryPoint("made", f"{here}:MADE", group),
        metadata.EntryPoint("wrong", f"{here}:WRONG", group),
        metadata.EntryPoint("round_robin", f"{here}:Mine", group),
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda **selected: found if selected == {"group": group} else [])


class Mine(RoundRobin):
    """Somebody else's strategy."""


MADE = Mine()
WRONG = 42


def test_installed_strategies_are_found_by_name_and_do_not_hide_the_built_in_ones(installed: None) -> None:
    assert available()[:3] == ("round_robin", "random", "power_of_two")
    assert available()[-3:] == ("made", "mine", "wrong")
    assert isinstance(resolve("mine"), Mine)
    assert resolve("made") is MADE
    assert not isinstance(resolve("round_robin"), Mine)
    with pytest.raises(ConfigError, match="entry point"):
        resolve("wrong")
