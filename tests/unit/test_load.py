"""Load metrics, by their documented formulas, and the choice between two by any of them."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcpool.core.lease import Lease
from grpcpool.core.member import Member
from grpcpool.strategies import Failures, InFlight, PeakEwma, PowerOfTwo, Strain
from grpcpool.strategies.load import FAILURE, LEAST, PROBE, Gauge, Load
from grpcpool.testing import FakeClock, StrategyHarness

EVERY_LOAD = pytest.mark.parametrize(
    "load", [InFlight(), PeakEwma(), Failures(), Strain()], ids=lambda one: one.__class__
)
TAU = 10.0


class Gauged:
    """A member with a gauge, as a pool has it."""

    def __init__(self, load: Load) -> None:
        self.member = Member(0, "a")
        self.gauge: Gauge = load.gauge(self.member)
        self.member.meter = self.member.observer = self.gauge

    def start(self, now: float, timed: bool = True) -> Lease:
        return Lease.on(self.member, now, timed)

    def answer(self, now: float, latency: float) -> None:
        self.start(now - latency).succeed(now)

    def cost(self, now: float) -> float:
        return self.gauge.cost(now)


@EVERY_LOAD
def test_a_gauge_knows_its_member(load: Load) -> None:
    gauged = Gauged(load)
    assert gauged.gauge.member is gauged.member


@EVERY_LOAD
@pytest.mark.parametrize("timed", [True, False])
def test_what_is_in_flight_costs_more(load: Load, timed: bool) -> None:
    gauged = Gauged(load)
    gauged.answer(1.0, 0.01)
    costs = [gauged.cost(1.0)]
    leases = []
    for _ in range(3):
        leases.append(gauged.start(1.0, timed))
        costs.append(gauged.cost(1.0))
    assert costs == pytest.approx([costs[0] * count for count in (1, 2, 3, 4)])
    for lease in leases:
        lease.release(1.0)
    assert gauged.cost(1.0) == costs[0]


@EVERY_LOAD
def test_time_that_is_past_is_no_trouble(load: Load) -> None:
    # As when a thread was kept waiting, for hours, between its look at the clock and its report.
    gauged = Gauged(load)
    early = [gauged.start(0.0) for _ in range(3)]
    gauged.answer(1e5, 0.02)
    gauged.start(1e5).fail(1e5)
    early[0].succeed(0.01)
    early[1].fail(0.02)
    early[2].release(3.0)
    assert math.isfinite(gauged.cost(0.0))
    assert 0 < gauged.cost(0.0) <= 2 * FAILURE * 11


@EVERY_LOAD
def test_long_silence_is_no_trouble(load: Load) -> None:
    gauged = Gauged(load)
    gauged.start(0.0).fail(0.1)
    for now in (1e5, 1e10):
        # Nothing, or what it costs any member.
        assert gauged.cost(now) in (LEAST, 1.0)
        gauged.answer(now, 0.25)
        assert gauged.cost(now) in (0.25, 1.0)


@pytest.mark.parametrize("tau", [0, -1, 5e-324, math.inf, math.nan])
@pytest.mark.parametrize("kind", [PeakEwma, Failures, Strain])
def test_a_time_constant_that_is_none_is_refused(kind: Any, tau: float) -> None:
    with pytest.raises(ValueError, match="tau must be a time in seconds above 0, not"):
        kind(tau)


# --- in flight


@given(st.lists(st.booleans(), max_size=20), st.floats(0, 100))
def test_in_flight_counts_calls_and_nothing_else(endings: list[bool], latency: float) -> None:
    gauged = Gauged(InFlight())
    for count, timed in enumerate(endings):
        assert gauged.cost(float(count)) == count + 1
        gauged.start(float(count), timed)
    for ok in endings:
        lease = gauged.start(0.0)
        assert gauged.cost(latency) == len(endings) + 2
        (lease.succeed if ok else lease.fail)(latency)
    assert gauged.cost(1e9) == len(endings) + 1


# --- peak EWMA


def test_peak_ewma_of_an_unknown_member_admits_one_probe() -> None:
    gauged = Gauged(PeakEwma(TAU))
    assert gauged.cost(5.0) == LEAST
    probe = gauged.start(5.0)
    assert gauged.cost(5.0) == gauged.cost(500.0) == 2 * PROBE
    gauged.start(5.0)
    assert gauged.cost(5.0) == 3 * PROBE
    probe.succeed(5.3)
    assert gauged.cost(5.3) == pytest.approx(0.3 * 2)


def test_peak_ewma_of_a_member_whose_probe_was_dropped_is_still_unknown() -> None:
    gauged = Gauged(PeakEwma(TAU))
    gauged.start(5.0).release(6.0)
    assert gauged.cost(6.0) == LEAST


def test_peak_ewma_takes_a_peak_at_once_and_forgets_it_slowly() -> None:
    gauged = Gauged(PeakEwma(TAU))
    gauged.answer(1.0, 0.1)
    gauged.answer(2.0, 0.5)
    assert gauged.cost(2.0) == pytest.approx(0.5)
    gauged.answer(5.0, 0.1)
    weight = math.exp(-3 / TAU)
    assert gauged.cost(5.0) == pytest.approx(0.5 * weight + 0.1 * (1 - weight))


def test_peak_ewma_compares_with_what_is_left_of_the_peak() -> None:
    gauged = Gauged(PeakEwma(TAU))
    gauged.answer(1.0, 1.0)
    # Of the peak there is less left than this.
    gauged.answer(1.0 + 3 * TAU, 0.1)
    assert gauged.cost(1.0 + 3 * TAU) == pytest.approx(0.1)


@given(st.floats(1e-3, 10), st.floats(0, 50))
def test_peak_ewma_decays_when_it_is_read(latency: float, later: float) -> None:
    gauged = Gauged(PeakEwma(TAU))
    gauged.answer(100.0, latency)
    assert gauged.cost(100.0 + later) == pytest.approx(max(LEAST, latency * math.exp(-later / TAU)))


@pytest.mark.parametrize(("latency", "counted"), [(0.001, FAILURE), (0.999, FAILURE), (3.0, 3.0)])
def test_peak_ewma_takes_a_failure_for_a_second_at_least(latency: float, counted: float) -> None:
    gauged = Gauged(PeakEwma(TAU))
    gauged.answer(1.0, 0.01)
    gauged.start(10.0 - latency).fail(10.0)
    assert gauged.cost(10.0) == pytest.approx(counted)


def test_peak_ewma_learns_from_a_stream_only_that_it_failed() -> None:
    gauged = Gauged(PeakEwma(TAU))
    gauged.answer(1.0, 0.01)
    gauged.start(1.0, False).succeed(50.0)
    gauged.start(1.0, False).release(50.0)
    assert gauged.cost(1.0) == pytest.approx(0.01)
    gauged.start(1.0, False).fail(1.0)
    assert gauged.cost(1.0) == pytest.approx(FAILURE)


def test_peak_ewma_learns_from_a_dropped_call_only_if_it_took_long() -> None:
    gauged = Gauged(PeakEwma(TAU))
    gauged.answer(1.0, 0.1)
    gauged.start(1.0).release(1.05)
    assert gauged.cost(1.0) == pytest.approx(0.1)
    gauged.start(1.0).release(1.5)
    assert gauged.cost(1.5) == pytest.approx(0.5)


# --- failures


def test_a_failure_counts_and_is_forgotten_without_a_cliff() -> None:
    gauged = Gauged(Failures(TAU))
    assert gauged.cost(0.0) == 1.0
    gauged.start(0.0).fail(1.0)
    assert gauged.cost(1.0) == 2.0
    costs = [gauged.cost(1.0 + step / 10) for step in range(1000)]
    assert costs == pytest.approx([1 + math.exp(-step / 10 / TAU) for step in range(1000)])
    assert all(0 < before - after < 0.011 for before, after in itertools.pairwise(costs))
    gauged.start(6.0).fail(6.0)
    assert gauged.cost(6.0) == pytest.approx(2 + math.exp(-5 / TAU))


@given(st.lists(st.floats(0, 5), max_size=60))
def test_failures_are_bounded(pauses: list[float]) -> None:
    gauged = Gauged(Failures(TAU))
    now = 0.0
    for pause in pauses:
        now += pause
        gauged.start(now, False).fail(now)
        assert 2 <= gauged.cost(now) <= 1 + 10
    # However many there were, what is left after five time constants is little.
    assert gauged.cost(now + 5 * TAU) < 1.07


def test_failures_learn_nothing_from_other_ends() -> None:
    gauged = Gauged(Failures(TAU))
    gauged.answer(1.0, 30.0)
    gauged.start(1.0).release(60.0)
    gauged.member.failed(gauged.member.begin(1.0, True), 2.0, 1.0, blame=False)
    assert gauged.cost(60.0) == 1.0


def test_failures_are_weighed_against_what_is_in_flight() -> None:
    gauged = Gauged(Failures(TAU))
    gauged.start(1.0).fail(1.0)
    gauged.start(1.0)
    assert gauged.cost(1.0) == 4.0


# --- the better of two, by any load


@EVERY_LOAD
def test_the_cheaper_of_two_is_picked(load: Load) -> None:
    harness = StrategyHarness(PowerOfTwo(load), 2, seed=1)
    for step in range(200):
        now = harness.clock()
        costs = [member.meter.cost(now) for member in harness.members]  # type: ignore[attr-defined, union-attr]
        index = harness.pick()
        assert costs[index] == min(costs)
        harness.clock.advance(0.01)  # type: ignore[attr-defined]
        if step % 3:
            harness.done(index, ok=step % 7 > 0)


@EVERY_LOAD
def test_equal_ones_are_drawn_alike_by_any_load(load: Load) -> None:
    harness = StrategyHarness(PowerOfTwo(load), 40, seed=1)
    for index in range(40):
        Lease.on(harness.members[index], -0.01).succeed(0.0)
    draws = Counter(harness._generation.pick().id for _ in range(8000))
    # Binomial counts with a standard deviation of 14.
    assert all(abs(draws[index] - 200) < 5 * 14 for index in range(40))


@EVERY_LOAD
def test_the_worst_of_all_is_never_picked(load: Load) -> None:
    harness = StrategyHarness(PowerOfTwo(load), 5, seed=1)
    for member in harness.members:
        Lease.on(member, -0.01).succeed(0.0)
    stuck = harness.pick()
    Lease.on(harness.members[stuck], -5.0).fail(0.0)
    for _ in range(500):
        index = harness.pick()
        assert index != stuck
        harness.done(index, latency=0.01)


@EVERY_LOAD
def test_one_member_is_picked_without_a_look(load: Load) -> None:
    harness = StrategyHarness(PowerOfTwo(load), 1)
    assert [harness.pick() for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("size", [2, 5, 33])
@EVERY_LOAD
def test_two_distinct_ones_are_compared(load: Load, size: int) -> None:
    class Spy:
        """A gauge that notes when it is read."""

        def __init__(self, member: Any) -> None:
            self.member = member

        def cost(self, now: float) -> float:
            looks.append(self.member)
            return 1.0

    looks: list[Any] = []
    members: Sequence[Any] = [Member(index, "a") for index in range(size)]
    for member in members:
        member.meter = Spy(member)
    pick = PowerOfTwo(load).build(members, rng=random.Random(1), clock=FakeClock())
    pairs = set()
    for _ in range(60 * size * size):
        looks.clear()
        chosen: Any = pick()
        second, first = looks
        assert chosen is first, "of two equals the first drawn is taken"
        pairs.add((first.id, second.id))
    assert len(pairs) == size * (size - 1)
    assert all(first != second for first, second in pairs)
