"""The harness for strategies: it plays the pool, the callers and the time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from grpcpool import ConfigError, affinity
from grpcpool.keys import Key
from grpcpool.strategies import Clock, Member
from grpcpool.testing import FakeClock, StrategyHarness


class Diary:
    """A strategy that routes to member 0, and writes down what it is asked and told."""

    keyed = True

    def __init__(self) -> None:
        self.keys: list[Key | None] = []
        self.told: list[Any] = []

    def meter(self, member: Member) -> Any:
        told = self.told

        class Page:
            def started(self, now: float, timed: bool) -> None:
                told.append(("started", member.id, now, timed))

            def answered(self, now: float, latency: float | None) -> None:
                told.append(("answered", member.id, now, latency))

            def failed(self, now: float, latency: float | None) -> None:
                told.append(("failed", member.id, now, latency))

            def dropped(self, now: float, latency: float | None) -> None:
                told.append(("dropped", member.id, now, latency))

        return Page()

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> Any:
        def pick(key: Key | None) -> Member:
            self.keys.append(key)
            return members[0]

        return pick


def test_the_harness_keeps_time_and_ends_calls_in_order() -> None:
    harness = StrategyHarness("round_robin", 1)
    assert isinstance(harness.clock, FakeClock)
    harness.pick()
    harness.clock.advance(2.0)
    harness.done(0)
    assert harness.members[0].latency == 2.0
    harness.pick()
    harness.done(0, ok=False)
    assert harness.members[0].failures == 1
    with pytest.raises(ValueError, match="no call is running on member 0"):
        harness.done(0)
    with pytest.raises(ValueError, match="cannot go back"):
        harness.clock.advance(-1)


def test_the_harness_says_what_a_strategy_does_wrong() -> None:
    class Bad:
        def build(self, members: Any, *, rng: random.Random, clock: Any) -> Any:
            return lambda: None

    with pytest.raises(AssertionError, match="the strategy failed: the picker returned an object of type NoneType"):
        StrategyHarness(Bad(), 2).pick()


def test_a_call_ends_well_or_badly_or_by_its_callers_doing() -> None:
    diary, clock = Diary(), FakeClock()
    harness = StrategyHarness(diary, 1, clock=clock)
    for _ in range(4):
        harness.pick()
    assert diary.told == [("started", 0, 0.0, True)] * 4
    diary.told.clear()
    clock.advance(3.0)
    harness.done(0)
    harness.done(0, latency=0.5, ok=False)
    harness.drop(0)
    harness.drop(0, latency=0.25)
    assert diary.told == [
        ("answered", 0, 3.0, 3.0),
        ("failed", 0, 3.0, 0.5),
        ("dropped", 0, 3.0, 3.0),
        ("dropped", 0, 3.0, 0.25),
    ]
    (member,) = harness.members
    assert (member.picks, member.in_flight, member.failures) == (4, 0, 1)
    with pytest.raises(ValueError, match="no call is running on member 0"):
        harness.drop(0)


def test_a_stream_is_in_flight_and_has_no_latency() -> None:
    diary = Diary()
    harness = StrategyHarness(diary, 1)
    for _ in range(3):
        harness.pick(timed=False)
    assert harness.in_flight() == (3,)
    harness.done(0, latency=1.0)
    harness.done(0, ok=False)
    harness.drop(0)
    assert [entry[2:] for entry in diary.told] == [(0.0, False)] * 3 + [(0.0, None)] * 3
    assert harness.members[0].latency is None


def test_a_key_counts_for_the_one_pick_and_else_the_one_in_force() -> None:
    diary = Diary()
    harness = StrategyHarness(diary, 1)
    harness.pick("mine")
    harness.pick()
    with affinity("outer"):
        harness.pick(key=b"inner")
        harness.pick()
    assert diary.keys == ["mine", None, b"inner", "outer"]
    with pytest.raises(ValueError, match="an affinity key must not be empty"):
        harness.pick("")
    assert harness.in_flight() == (4,), "what was refused has not been started"


def test_members_have_the_weights_and_the_endpoints_that_they_are_given() -> None:
    harness = StrategyHarness("weighted_round_robin", 2, weights=[3.0, 1.0])
    assert Counter(harness.pick() for _ in range(40)) == {0: 30, 1: 10}
    assert [member.endpoint for member in harness.members] == ["member-0", "member-1"]
    harness = StrategyHarness("weighted_round_robin", 3, endpoints=["big", "big", "small"], weights=[4, 4, 1])
    assert Counter(harness.pick() for _ in range(50)) == {0: 20, 1: 20, 2: 10}
    harness = StrategyHarness("weighted_round_robin", 3, endpoints=["a", "a", "b"])
    assert Counter(harness.pick() for _ in range(40)) == {0: 10, 1: 10, 2: 20}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"weights": [1.0]}, "weights: there are 1 for 2 members"),
        ({"endpoints": ["a", "b", "c"]}, "endpoints: there are 3 for 2 members"),
        ({"endpoints": ["a", "a"], "weights": [1, 2]}, "members that share an endpoint must have the same"),
    ],
)
def test_what_does_not_fit_the_members_is_refused(options: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        StrategyHarness("round_robin", 2, **options)


@pytest.mark.parametrize("options", [{"weights": [0, 1]}, {"weights": [1, "2"]}, {"endpoints": ["a", None]}])
def test_what_no_pool_would_take_is_refused(options: Any) -> None:
    with pytest.raises(ConfigError):
        StrategyHarness("round_robin", 2, **options)


def test_members_come_and_go() -> None:
    harness = StrategyHarness("round_robin", 3)
    harness.connect([2])
    assert [harness.pick(), harness.pick()] == [2, 2]
    harness.connect([])
    with pytest.raises(ValueError, match="no member is connected"):
        harness.pick()
    harness.connect([0, 1, 2])
    assert {harness.pick() for _ in range(3)} == {0, 1, 2}
