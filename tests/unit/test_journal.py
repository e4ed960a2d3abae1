"""What a pool remembers of its decisions."""

from __future__ import annotations

import pytest

from grpcpool import events
from grpcpool.core import snapshot
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.journal import KEPT, Journal
from grpcpool.core.messages import Close, Resize, Tick
from grpcpool.stats import Decision

from .world import World, connected, opened

ABOUT = {"pool": "p", "member": 3, "endpoint": "a:1"}
SCALED = {"pool": "p", "duration": 1.0, "requested": 3, "succeeded": 3, "failed": 0, "new_size": 7, "reason": "so"}

TOLD: list[tuple[events.Event, str]] = [
    (events.Opened(pool="p", size=4, endpoints=("a", "b")), "4 members over 2 targets"),
    (events.ScaledUp(**SCALED), "size 7: so"),
    (events.ScaledUp(**{**SCALED, "succeeded": 1, "failed": 2}), "size 7: so; 2 did not connect"),
    (events.ScaledDown(**SCALED), "size 7: so"),
    (events.Recycled(replacement=9, age=60.0, reason="old", **ABOUT), "member 3 by 9: old"),
    (events.Rebuilt(replacement=9, attempts=5, **ABOUT), "member 3 by 9: 5 failed attempts to connect"),
    (events.Rebuilt(replacement=9, attempts=0, **ABOUT), "member 3 by 9: its channel was of no more use"),
    (events.ConnectionDown(reason="gone", **ABOUT), "member 3: gone"),
    (events.PrimerFailed(error="raised", attempt=1, **ABOUT), "member 3: raised"),
    (events.Drained(duration=1.0, cancelled=2, reason="left", **ABOUT), "member 3: left; 2 RPCs were cancelled"),
    (events.Saturated(pool="p", size=4, in_flight=40, waiting=5), "5 RPCs wait and 40 run"),
    (events.Ejected(duration=5.0, attempt=1, reason="bad", **ABOUT), "member 3: bad"),
    (events.Probing(reason="time", **ABOUT), "member 3: time"),
    (events.Readmitted(duration=5.0, reason="good", **ABOUT), "member 3: good"),
    (events.Spared(reason="last", **ABOUT), "member 3: last"),
    (events.NotServing(reason="NOT_SERVING", **ABOUT), "member 3: NOT_SERVING"),
    (events.Serving(**ABOUT), "member 3: its server says that it serves again"),
    (
        events.PoolFailing(pool="p", failing=3, connected=4, reason="bad"),
        "3 of 4 members fail, so it is not the channel: bad",
    ),
    (events.PoolRecovered(pool="p", duration=1.5), "members answer again after 1.5 s"),
    (events.Panicked(pool="p", usable=1, size=3), "only 1 of 3 members are usable"),
    (events.PanicEnded(pool="p", duration=1.5), "enough members are usable again after 1.5 s"),
    (events.Closed(pool="p", open_for=3.0), "close() was called"),
]


@pytest.mark.parametrize(("event", "reason"), TOLD, ids=[type(event).__name__ for event, _ in TOLD])
def test_a_decision_is_kept_with_its_reason_and_its_age(event: events.Event, reason: str) -> None:
    journal = Journal()
    journal.note(event, 100.0)
    assert journal.read(130.5) == (Decision(30.5, type(event).__name__, reason),)


@pytest.mark.parametrize(
    "event",
    [
        events.Picked(**ABOUT),
        events.Connected(duration=1.0, **ABOUT),
        events.ConnectFailed(duration=1.0, error="refused", **ABOUT),
        events.Pinged(duration=1.0, result="alive", **ABOUT),
        events.Drained(duration=1.0, cancelled=0, reason="left", **ABOUT),
        events.StrategyFailed(pool="p", strategy="Mine", error="raised"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_is_no_decision_is_not_kept(event: events.Event) -> None:
    journal = Journal()
    journal.note(event, 100.0)
    assert journal.read(100.0) == ()


def test_the_last_hundred_are_kept_oldest_first() -> None:
    journal = Journal()
    for at in range(250):
        journal.note(events.Saturated(pool="p", size=1, in_flight=1, waiting=at), float(at))
    kept = journal.read(250.0)
    assert len(kept) == KEPT == 100
    assert [decision.ago for decision in kept] == [float(ago) for ago in range(100, 0, -1)]
    assert kept[0].reason == "150 RPCs wait and 1 run"


def decisions(world: World) -> list[tuple[float, str, str]]:
    stats = snapshot.stats(world.machine, world.line, world.clock(), listener_errors=0, maintenance_errors=0)
    return [(decision.ago, decision.what, decision.reason) for decision in stats.decisions]


def test_the_life_of_a_pool_can_be_read_in_its_stats() -> None:
    world = connected(size=2, max_lifetime=50.0)
    world.clock.advance(10)
    ticket = world.ask(Resize, by=1)
    world.connect_all()
    assert ticket.result(0) == 3
    world.clock.advance(10)
    world.observe(world.ready[2], Connectivity.SHUTDOWN)
    world.clock.advance(10)
    world.ask(Resize, by=-1)
    world.tell(Close())
    found = decisions(world)
    assert [(ago, what) for ago, what, _ in found] == [
        (30.0, "Opened"),
        (20.0, "ScaledUp"),
        (10.0, "ConnectionDown"),
        (10.0, "Rebuilt"),
        (0.0, "ScaledDown"),
        (0.0, "Closed"),
    ]
    assert found[1][2] == "size 3: it was asked for"
    assert found[2][2] == "member 2: its channel was closed from outside the pool"


def test_recycling_can_be_read_in_the_stats() -> None:
    world = connected(size=1, max_lifetime=50.0)
    world.clock.advance(50)
    world.tell(Tick())
    world.connect_all()
    _, recycled = decisions(world)
    assert recycled == (0.0, "Recycled", "member 0 by 1: max_lifetime of 50 s has passed")
    stats = snapshot.stats(world.machine, world.line, world.clock(), listener_errors=0, maintenance_errors=0)
    assert (stats.recycled, stats.drained, stats.grown, stats.shrunk, stats.connects) == (1, 1, 0, 0, 2)


def test_the_bounds_and_the_line_are_in_the_stats() -> None:
    world = opened(size=2, bounds=(2, 6), band=(1.0, 4.0))
    world.line = world.line._replace(waiting=3, waited=7, seconds=1.5, refused=2)
    stats = snapshot.stats(world.machine, world.line, world.clock(), listener_errors=0, maintenance_errors=0)
    assert (stats.min_size, stats.size, stats.max_size) == (2, 2, 6)
    assert (stats.waiting, stats.waited, stats.waited_seconds, stats.refused) == (3, 7, 1.5, 2)
