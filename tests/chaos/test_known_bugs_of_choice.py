"""Bugs that pools are known for, one test each: those in whom a pool chooses."""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from itertools import pairwise
from typing import Any

import grpc
import pytest

from grpcpool import events
from grpcpool.core.lease import Lease
from grpcpool.core.messages import Open, Pinged, Tick
from grpcpool.testing import FaultServer, StrategyHarness

from ..integration.flavours import Flavour, Pool
from ..integration.lifecycle import of
from ..integration.waiting import until
from ..unit.world import Room

pytestmark = pytest.mark.integration

LONG = 60.0
CALLERS, CALLS = 8, 320
# By no latencies, which are what the machine makes them.
STRATEGIES = ["round_robin", "random", "power_of_two", "least_in_flight"]
BY_LATENCY = ["peak_ewma", "adaptive"]


def call_all(pool: Pool, count: int = CALLS) -> int:
    """Make so many calls, several callers at a time, each as soon as its last one has ended; return how many failed."""
    method, unary = pool.method("Unary"), pool.flavour.unary
    lock, left, failed = threading.Lock(), iter(range(count)), []

    def caller() -> None:
        while True:
            with lock:
                if next(left, None) is None:
                    return
            try:
                unary(method, b"x", timeout=LONG)
            except grpc.RpcError as error:
                failed.append(error.code())  # type: ignore[attr-defined]

    callers = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert set(failed) <= {grpc.StatusCode.UNAVAILABLE}
    return len(failed)


@pytest.mark.parametrize("strategy", ["round_robin", "least_in_flight", "power_of_two"])
def test_a_fast_failing_member_that_draws_all_traffic(
    flavour: Flavour, faulty: FaultServer, healthy: FaultServer, strategy: str
) -> None:
    """One server of two refuses everything in a millisecond, so it always has the least to do, and gets nearly every
    call there is."""
    healthy.slow(0.01)
    faulty.fail(grpc.StatusCode.UNAVAILABLE)
    # Out for longer than the calls take, on the slowest machine: it is not tried again.
    options: dict[str, Any] = {
        "strategy": strategy,
        "failover": False,
        "ejection_min": 200.0,
        "unresponsive_after": None,
    }
    with flavour.insecure([faulty.target, healthy.target], size=2, **options) as pool:
        pool.wait_ready(min_ready=2)
        # Left to itself, it would have had nine tenths of them all.
        until(lambda: call_all(pool, 2 * CALLERS) >= 0 and pool.stats().ejections == 1)
        assert call_all(pool) == 0
        assert pool.stats().ejections == 1


@pytest.mark.parametrize("strategy", BY_LATENCY)
def test_a_fast_failing_member_that_draws_all_traffic_for_those_who_go_by_latency(strategy: str) -> None:
    """It is also the quickest to answer, so whoever looks for that gives it more, the more it fails."""
    harness = StrategyHarness(strategy, 2, seed=2)
    clock: Any = harness.clock
    # Eight callers, each of whom calls again as soon as its call has ended: when, and on whom.
    running = [(0.0, harness.pick()) for _ in range(CALLERS)]
    failed = 0
    for _ in range(2000):
        end, index = heapq.heappop(running)
        clock.now = max(clock.now, end)
        harness.done(index, ok=index != 0)
        failed += index == 0
        index = harness.pick()
        heapq.heappush(running, (clock.now + (0.001 if index == 0 else 0.02), index))
    assert failed < 200


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_herd_onto_one_member_after_a_shrink(flavour: Flavour, faulty: FaultServer, strategy: str) -> None:
    """With every change of the size the rotation begins again with the first member, or all look equally free and the
    first one wins: it gets the calls of everybody who comes just then."""
    with flavour.insecure(faulty.target, size=8, strategy=strategy, slow_start=None, seed=1) as pool:
        pool.wait_ready(min_ready=8)
        call_all(pool, 80)
        # One call after each change.
        for _ in range(20):
            for size in (7, 8):
                pool.resize(size)
                assert pool.unary() == b"x"
        pool.resize(4)
        calls = Counter({member.id: member.calls for member in pool.stats().members})
        assert max(calls.values()) < 80 / 8 + 30
        # And a crowd after the last.
        faulty.hang()
        crowd = [pool.begin_unary(timeout=LONG) for _ in range(40)]
        faulty.wait_for(lambda: faulty.in_flight == 40)
        at_once = [member.in_flight for member in pool.stats().members if member.state == "ready"]
        assert sum(at_once) == 40
        assert max(at_once) <= 20
        faulty.heal()
        assert [flavour.finish(call) for call in crowd] == [b"x"] * 40


@pytest.mark.parametrize("strategy", [*STRATEGIES, *BY_LATENCY])
def test_the_herd_onto_one_member_after_a_shrink_at_the_same_moment(strategy: str) -> None:
    """A crowd that comes just then is sent to the one that looks best, all of it."""
    harness = StrategyHarness(strategy, 8, seed=4)
    clock: Any = harness.clock
    for size in (8, 4, 7, 3):
        harness.connect(range(size))
        for _ in range(80):
            clock.advance(0.001)
            harness.done(harness.pick(), latency=0.01)
        harness.connect(range(size - 1))
        crowd = Counter(harness.pick() for _ in range(60))
        assert max(crowd.values()) <= 2 * 60 / (size - 1)
        for index in crowd.elements():
            harness.done(index, latency=0.01)


def test_the_penalty_that_ends_in_a_cliff(flavour: Flavour, faulty: FaultServer, healthy: FaultServer) -> None:
    """A server that has just recovered gets everything at once, when its penalty is over, and goes down again."""
    heard: list[events.Event] = []
    options: dict[str, Any] = {"ejection_min": 0.3, "slow_start": 120.0, "failover": False}
    targets = [faulty.target, healthy.target]
    with flavour.insecure(targets, size=2, listeners=heard.append, **options) as pool:
        pool.wait_ready(min_ready=2)
        faulty.fail(grpc.StatusCode.UNAVAILABLE)
        until(lambda: call_all(pool, 16) >= 0 and of(events.Ejected, heard))
        faulty.heal()
        # Its penalty over, it is given one call; and a tenth of its share once that was answered.
        before = faulty.calls
        until(lambda: of(events.Probing, heard))
        until(lambda: call_all(pool, 8) == 0 and of(events.Readmitted, heard))
        assert faulty.calls - before <= 4
        before = faulty.calls
        assert call_all(pool) == 0
        assert 0 < faulty.calls - before < CALLS / 4


def test_the_penalty_that_ends_in_a_cliff_is_a_slope() -> None:
    """Its share grows evenly, from a tenth to all of it: no second is much worse than the one before."""
    room = Room(policy={"size": 4, "ping_interval": None, "max_consecutive_failures": 1, "slow_start": 10.0})
    room.tell(Open())
    bad, *others = room.connect_all()
    for other in others:
        Lease.on(other, room.clock()).succeed(room.clock())
    Lease.on(bad, room.clock()).fail(room.clock())
    room.engine.pump()
    assert bad not in room.engine.generation.members
    room.tell(Pinged(bad, 0.01, None))
    room.clock.advance(6)
    room.tell(Tick())
    probe = room.acquire()
    assert probe.member is bad
    room.engine.pump()
    probe.succeed(room.clock())
    room.clock.advance(0.2)
    room.tell(Tick())
    shares = []
    for _ in range(12):
        picks = [room.engine.generation.pick() for _ in range(2000)]
        shares.append(picks.count(bad) / 500)
        room.clock.advance(1.0)
        room.tell(Tick())
    assert shares[0] < 0.2
    assert all(later - earlier < 0.25 for earlier, later in pairwise(shares))
    assert shares[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("strategy", BY_LATENCY)
def test_the_penalty_that_ends_in_a_cliff_while_it_goes_on_failing(strategy: str) -> None:
    """When the penalty of one that still fails is over, a burst of calls runs into it before the first has failed."""
    harness = StrategyHarness(strategy, 3, seed=3)
    clock: Any = harness.clock
    failed = [0]
    for step in range(4000):
        index = harness.pick()
        clock.advance(0.05)
        harness.done(index, latency=0.01, ok=index != 0)
        if index == 0:
            failed.append(step)
    # It is tried again and again, with one call at a time.
    assert 2 <= len(failed) - 1 < 150
    gaps = [later - earlier for earlier, later in pairwise(failed)]
    assert max(gaps) > 20
    # And then a crowd comes at the moment at which its penalty is over.
    clock.advance(30)
    crowd = [harness.pick() for _ in range(60)]
    assert crowd.count(0) < 30
