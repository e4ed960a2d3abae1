"""The pure parts of health: windows, outliers, slow start, and what members count themselves."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcpool.core.member import Member
from grpcpool.core.outliers import floor
from grpcpool.core.slow_start import gradually, once_each, share
from grpcpool.core.window import PARTS, Window
from grpcpool.testing import FakeClock

from .helpers import in_threads

# --- windows


def test_a_window_counts_what_was_within_its_seconds() -> None:
    window = Window(30.0)
    assert window.sums(100.0) == (0, 0)
    window.add(100.0, 5, 1)
    window.add(101.0, 2, 0)
    window.add(110.0, 1, 1)
    assert window.sums(110.0) == (8, 2)
    assert window.sums(110.0, 5.0) == (1, 1)
    assert window.sums(130.0) == (8, 2)
    assert window.sums(130.1) == (1, 1)
    assert window.sums(1e9) == (0, 0)
    assert window.sums(100.0) == (0, 0)


def test_a_window_can_be_cleared() -> None:
    window = Window(30.0)
    window.add(100.0, 5, 1)
    window.clear()
    assert window.sums(100.0) == (0, 0)


def test_a_window_has_a_few_parts_however_often_it_is_told() -> None:
    window = Window(10.0)
    for step in range(1000):
        window.add(100.0 + step * 0.05, 1, 0)
        window.add(100.0 + step * 0.05, 0, 0)
    assert len(window._parts) <= PARTS + 1


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 9), st.integers(0, 9)), max_size=30))
def test_a_window_is_right_but_for_one_part(steps: list[tuple[float, int, int]]) -> None:
    window = Window(30.0)
    now, told = 0.0, []
    for gap, answered, failed in steps:
        now += gap
        window.add(now, answered, failed)
        told.append((now, answered, failed))
    least = [sum(each[i] for each in told if each[0] > now - 27) for i in (1, 2)]
    most = [sum(each[i] for each in told if each[0] >= now - 30) for i in (1, 2)]
    for low, found, high in zip(least, window.sums(now), most, strict=True):
        assert low <= found <= high


# --- outliers


def test_few_members_have_no_outliers() -> None:
    assert floor([]) is None
    assert floor([1.0, 1.0, 1.0, 0.0]) is None


def test_the_floor_is_19_tenths_of_a_standard_deviation_below_the_mean() -> None:
    assert floor([0.9] * 6) == pytest.approx(0.9)
    # Mean 0.8, deviation 0.4.
    assert floor([1.0, 1.0, 1.0, 1.0, 0.0]) == pytest.approx(0.8 - 1.9 * 0.4)


# --- slow start


def test_the_share_grows_evenly_from_a_tenth() -> None:
    assert [share(100.0, now, 5.0) for now in (99.0, 100.0, 100.5, 102.5, 105.0, 200.0)] == [0.1, 0.1, 0.1, 0.5, 1, 1]


def members(count: int) -> list[Member]:
    return [Member(number, "a") for number in range(count)]


def counts(pick: object, of: list[Member], picks: int = 4000) -> list[float]:
    found = [pick() for _ in range(picks)]  # type: ignore[operator]
    return [found.count(member) / picks for member in of]


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 0.1), (2.5, 0.5), (5.0, 1.0)])
def test_who_has_come_back_gets_a_growing_share(seconds: float, expected: float) -> None:
    everybody = members(4)
    clock = FakeClock(100.0 + seconds)
    turn = itertools.cycle(everybody).__next__
    pick = gradually(turn, everybody, {everybody[0]: 100.0}, 5.0, rng=random.Random(1), clock=clock)
    shares = counts(pick, everybody)
    assert shares[0] == pytest.approx(0.25 * expected, abs=0.02)
    assert all(each == pytest.approx((1 - shares[0]) / 3, abs=0.15) for each in shares[1:])


def test_a_strategy_that_always_prefers_it_is_overruled() -> None:
    everybody = members(3)
    pick = gradually(
        lambda: everybody[0], everybody, {everybody[0]: 100.0}, 5.0, rng=random.Random(1), clock=FakeClock(102.5)
    )
    shares = counts(pick, everybody)
    assert shares[0] == pytest.approx(0.5, abs=0.03)
    assert shares[1] == pytest.approx(shares[2], abs=0.01)


def test_if_all_have_come_back_they_do_the_work() -> None:
    everybody = members(3)
    turn = itertools.cycle(everybody).__next__
    since = dict.fromkeys(everybody, 100.0)
    assert gradually(turn, everybody, since, 5.0, rng=random.Random(1), clock=FakeClock(100.0)) is turn


def test_each_probe_is_given_out_once() -> None:
    first, second, other = members(3)
    given_out: list[Member] = []
    pick = once_each(lambda: other, [first, second], given_out.append)
    assert [pick() for _ in range(5)] == [first, second, other, other, other]
    assert given_out == [first, second]


@pytest.mark.usefixtures("hasty")
def test_each_probe_is_given_out_once_by_many_threads() -> None:
    *probed, other = members(50)
    given_out: list[Member] = []
    pick = once_each(lambda: other, probed, given_out.append)

    def work() -> None:
        for _ in range(200):
            pick()

    in_threads(8, work)
    assert sorted(member.id for member in given_out) == [member.id for member in probed]


# --- what members count


def failing(tolerance: int | None) -> tuple[Member, list[Member]]:
    member = Member(0, "a")
    told: list[Member] = []
    member.on_trouble = told.append
    member.forgive(tolerance)
    return member, told


def end(member: Member, how: str, times: int = 1) -> None:
    for _ in range(times):
        token = member.begin(0.0, timed=True)
        if how == "answered":
            member.answered(token, 0.0, 0.0)
        elif how == "dropped":
            member.dropped(token, 0.0, 0.0)
        else:
            member.failed(token, 0.0, 0.0, blame=how == "failed")


def test_a_member_counts_how_its_rpcs_ended() -> None:
    member, _ = failing(None)
    for times, how in enumerate(("answered", "refused", "failed", "dropped"), 1):
        end(member, how, times)
    member.begin(0.0, timed=True)
    assert (member.answers, member.blamed, member.drops, member.failures, member.picks) == (3, 3, 4, 5, 11)


def test_a_member_tells_of_so_many_failures_in_a_row_and_again() -> None:
    member, told = failing(3)
    end(member, "failed", 2)
    end(member, "answered")
    end(member, "failed", 2)
    assert (member.streak, told) == (2, [])
    end(member, "failed")
    assert (member.streak, told) == (3, [member])
    end(member, "failed", 2)
    assert len(told) == 1
    end(member, "failed")
    assert len(told) == 2
    end(member, "answered")
    assert member.streak == 0
    end(member, "failed", 3)
    assert len(told) == 3


def test_what_is_forgiven_does_not_count() -> None:
    member, told = failing(3)
    end(member, "failed", 2)
    member.forgive(3)
    assert member.streak == 0
    end(member, "failed", 2)
    assert told == []
    member.forgive(1)
    end(member, "failed")
    assert told == [member]
    member.forgive(None)
    end(member, "failed", 10)
    assert len(told) == 1


def test_reporting_an_end_twice_counts_once() -> None:
    member, told = failing(2)
    token = member.begin(0.0, timed=True)
    for _ in range(3):
        member.failed(token, 0.0, 0.0)
        member.dropped(token, 0.0, 0.0)
    assert (member.blamed, member.drops, told) == (1, 0, [])


@pytest.mark.usefixtures("hasty")
def test_counts_are_exact_in_many_threads() -> None:
    member, told = failing(5)

    def work() -> None:
        for _ in range(50):
            end(member, "failed", 3)
            end(member, "answered")
            end(member, "dropped")

    in_threads(8, work)
    assert (member.answers, member.blamed, member.drops) == (400, 1200, 400)
    # What was answered last may have been overlooked by a thread that failed at that moment; but not for long.
    member.settle()
    end(member, "answered")
    assert member.streak == 0
    told.clear()
    end(member, "failed", 5)
    assert told == [member]


def test_a_pick_that_comes_to_nothing_does_not_hide_an_answer_for_long() -> None:
    member, told = failing(3)
    # Counted, and not in flight yet, as between two steps of an RPC that begins in another thread.
    token = member.count()
    end(member, "failed")
    member.missed(token)
    member.settle()
    end(member, "answered")
    assert member.streak == 0
    end(member, "failed", 2)
    assert told == []
