"""How many RPCs a pool may send once more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcpool.core.budget import AT_HAND, PER_SECOND, SHARE, Budget
from grpcpool.testing import FakeClock

from .helpers import in_threads


class Load:
    """RPCs as a pool counts them: those that were sent again are among them."""

    def __init__(self) -> None:
        self.asked = 0
        self.again = 0
        self.in_flight = 0

    def __call__(self) -> tuple[int, int]:
        return self.asked + self.again, self.in_flight


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.load = Load()
        self.budget = Budget(self.load, self.clock)

    def take(self) -> bool:
        taken = self.budget.take()
        self.load.again += taken
        return taken

    def take_all(self) -> int:
        count = 0
        while self.take():
            count += 1
        return count


def test_a_few_may_be_sent_again_from_the_start() -> None:
    world = World()
    assert world.take_all() == AT_HAND
    assert world.budget.granted.value() == AT_HAND
    assert world.budget.refused.value() == 1


def test_time_brings_a_few_more() -> None:
    world = World()
    world.take_all()
    world.clock.advance(0.5)
    assert world.take_all() == PER_SECOND / 2


def test_parts_of_one_add_up() -> None:
    world = World()
    world.take_all()
    taken = 0
    for _ in range(100):
        world.clock.advance(0.03)
        taken += world.take_all()
    assert taken == pytest.approx(3 * PER_SECOND, abs=1)


def test_each_rpc_brings_a_fifth_and_what_is_sent_again_brings_nothing() -> None:
    world = World()
    world.take_all()
    world.load.in_flight = 1000
    world.load.asked += 500
    world.clock.advance(0.02)
    assert world.take_all() == pytest.approx(500 * SHARE, abs=1)
    world.clock.advance(0.02)
    assert world.take_all() <= 1


def test_no_more_is_saved_up_than_runs_and_a_few() -> None:
    world = World()
    world.load.asked = 10**6
    world.load.in_flight = 25
    world.clock.advance(3600)
    assert world.take_all() == AT_HAND + 25


def test_what_ran_a_moment_ago_still_counts() -> None:
    world = World()
    world.load.in_flight = 100
    world.load.asked = 10**4
    world.clock.advance(1)
    assert world.take()
    # All of them fail at one blow, and few of them are seen to run by those that come later.
    world.load.in_flight = 0
    world.clock.advance(0.05)
    assert world.take_all() >= 95


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    world = World()
    world.clock.advance(100)
    assert world.take()
    world.clock.now -= 50
    assert world.take()


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 1), st.integers(0, 50)), max_size=60))
def test_it_never_lets_more_through_than_a_fifth_and_so_many_a_second(steps: list[tuple[int, float, int]]) -> None:
    world = World()
    most = 0
    start = world.clock()
    for asked, seconds, in_flight in steps:
        world.load.asked += asked
        world.load.in_flight = in_flight
        most = max(most, in_flight)
        world.clock.advance(seconds)
        world.take_all()
        allowed = world.load.asked * SHARE + (world.clock() - start) * PER_SECOND + AT_HAND
        assert world.load.again <= allowed + 1


def test_threads_do_not_get_more_than_there_is() -> None:
    world = World()
    taken: list[bool] = []
    in_threads(8, lambda: taken.extend(world.budget.take() for _ in range(50)))
    assert sum(taken) == AT_HAND
    assert world.budget.granted.value() == AT_HAND
    assert world.budget.refused.value() == 400 - AT_HAND
