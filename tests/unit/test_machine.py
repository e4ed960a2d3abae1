"""What a pool decides about itself, situation by situation: opening, closing, reporting, and what comes too late."""

from __future__ import annotations

import itertools

import pytest

from grpcpool import events
from grpcpool.core.connectivity import Connectivity, aggregate
from grpcpool.core.members import TRANSITIONS
from grpcpool.core.messages import (
    Abort,
    Built,
    Close,
    Drained,
    Explained,
    Observed,
    Open,
    Pinged,
    Republish,
    Resize,
    Tick,
)
from grpcpool.core.slot import Phase
from grpcpool.errors import PoolClosed

from .world import FAILED, READY, World, connected, opened

# --- the table


def test_every_pair_of_phase_and_observation_is_decided() -> None:
    assert set(TRANSITIONS) == set(itertools.product(Phase, Connectivity))


# --- opening


def test_open_makes_all_members_and_offers_them_before_they_are_connected() -> None:
    world = opened(size=3)
    assert len(world.channels) == 3
    assert world.ready == ()
    assert set(world.fallback) == set(world.channels)
    assert world.told(events.Opened) == [events.Opened(pool="world", size=3, endpoints=("a",))]


def test_open_is_answered_when_the_members_are_built_and_open_twice_is_open_once() -> None:
    world = World(size=2)
    assert world.ask(Open).result(0) == 2
    assert world.ask(Open).result(0) == 2
    assert len(world.ever) == 2


def test_members_are_spread_evenly_over_the_targets() -> None:
    world = opened("a", "b", "c", size=7)
    counts = [[m.endpoint for m in world.ever].count(target) for target in "abc"]
    assert counts == [3, 2, 2]


def test_a_member_that_is_ready_is_published_and_said_to_be_connected() -> None:
    world = opened(size=2)
    first, second = world.channels
    world.clock.advance(0.25)
    world.observe(first, READY)
    assert world.ready == (first,)
    assert world.fallback == ()
    assert world.told(events.Connected) == [events.Connected(pool="world", member=0, endpoint="a", duration=0.25)]
    world.observe(second, READY)
    assert world.ready == (first, second)


def test_an_idle_channel_is_asked_to_connect() -> None:
    world = opened(size=1)
    (member,) = world.channels
    before = len(world.connects)
    world.observe(member, Connectivity.IDLE)
    assert world.connects[before:] == [member]


# --- connectivity of the whole


def test_the_whole_is_as_good_as_its_best_member() -> None:
    assert aggregate([]) is Connectivity.IDLE
    for low, high in itertools.combinations([FAILED, Connectivity.CONNECTING, READY], 2):
        assert aggregate([low, high, low]) is high


def test_the_pool_reports_its_connectivity_and_stays_failed_until_someone_connects() -> None:
    world = opened(size=1, max_reconnect_attempts=1)
    (member,) = world.channels
    world.observe(member, READY)
    world.observe(member, Connectivity.IDLE)
    world.fail(member)
    (successor,) = world.channels
    world.observe(successor, Connectivity.CONNECTING)
    world.observe(successor, READY)
    world.tell(Close())
    assert world.reports == [
        Connectivity.CONNECTING,
        READY,
        Connectivity.CONNECTING,
        FAILED,
        READY,
        Connectivity.SHUTDOWN,
    ]


# --- status reports


def test_the_status_is_reported_at_every_interval_and_once_after_a_pause() -> None:
    world = opened(size=2, telemetry_interval=5.0)
    world.clock.advance(5)
    world.tell(Tick())
    world.observe(next(iter(world.channels)), READY)
    world.clock.advance(500)
    world.tell(Tick())
    world.tell(Tick())
    world.connect_all()
    world.clock.advance(5)
    world.tell(Tick())
    reports = [(event.expected, event.current, event.status) for event in world.told(events.StatusReport)]
    assert reports == [(2, 0, "down"), (2, 1, "degraded"), (2, 2, "healthy")]


# --- closing


def test_close_waits_for_running_rpcs_and_says_so_when_all_is_over() -> None:
    world = connected(size=2)
    lease = world.lease(world.ready[0])
    world.clock.advance(3)
    world.tell(Close())
    assert world.shut
    assert len(world.channels) == 1
    assert world.told(events.Closed) == []
    world.end(lease)
    assert world.channels == {}
    assert world.told(events.Closed) == [events.Closed(pool="world", open_for=3)]
    world.tell(Close())
    world.tell(Abort())
    world.tell(Tick())
    assert world.machine.wake_at is None


def test_close_leaves_alone_who_is_leaving_already() -> None:
    world = connected(size=2)
    leases = [world.lease(member) for member in world.ready]
    world.ask(Resize, by=-1)
    world.tell(Close())
    assert world.phases() == ["draining", "draining"]
    for lease in leases:
        world.end(lease)
    assert world.channels == {}


def test_abort_does_not_wait() -> None:
    world = connected(size=2)
    world.lease(world.ready[0])
    world.tell(Close())
    world.tell(Abort())
    assert world.channels == {}
    assert len(world.told(events.Closed)) == 1


def test_abort_without_close_is_ignored() -> None:
    world = connected(size=2)
    world.tell(Abort())
    assert len(world.ready) == 2


def test_a_pool_that_was_never_opened_closes_without_a_word() -> None:
    world = World(size=2)
    world.tell(Close())
    assert world.events == []
    assert world.shut


def test_close_ends_a_resize_and_an_opening() -> None:
    world = connected(size=1)
    resize = world.ask(Resize, by=1)
    world.tell(Close())
    with pytest.raises(PoolClosed, match="during the resize"):
        resize.result(0)


def test_a_closed_pool_refuses_to_open_or_to_scale() -> None:
    world = connected(size=1)
    world.tell(Close())
    for ticket in (world.ask(Open), world.ask(Resize, by=1)):
        with pytest.raises(PoolClosed):
            ticket.result(0)


def test_who_waits_for_the_opening_of_a_pool_that_is_closed_meanwhile_is_told() -> None:
    world = World(size=1)
    machine = world.machine
    from concurrent.futures import Future

    ticket: Future[int] = Future()
    machine.handle(Open(ticket), 0.0)
    answers = [effect for effect in machine.handle(Close(), 0.0) if type(effect).__name__ == "Answer"]
    assert [type(answer.outcome) for answer in answers] == [PoolClosed]


# --- messages that come too late


def test_what_concerns_a_member_that_is_gone_is_ignored() -> None:
    world = connected(size=2)
    gone = world.ready[0]
    world.ask(Resize, by=-1)
    (gone,) = world.closed
    count = len(world.events)
    for message in (Observed(gone, READY), Explained(gone, "x"), Pinged(gone, 0.1, "x"), Drained(gone)):
        world.tell(message)
    world.tell(Built((), ((gone, "x"),)))
    assert len(world.events) == count


def test_a_channel_that_was_made_for_a_member_already_gone_is_closed() -> None:
    machine = World(size=1).machine
    machine.handle(Open(), 0.0)
    (member,) = machine.slots
    machine.handle(Close(), 0.0)
    machine.handle(Abort(), 0.0)
    effects = machine.handle(Built((member,)), 0.0)
    assert [type(effect).__name__ for effect in effects if "Channel" in type(effect).__name__] == ["CloseChannel"]


def test_a_channel_that_was_made_for_a_draining_member_is_not_connected() -> None:
    machine = World(size=1).machine
    machine.handle(Open(), 0.0)
    (member,) = machine.slots
    machine.handle(Close(), 0.0)
    names = [type(effect).__name__ for effect in machine.handle(Built((member,)), 0.0)]
    assert "Connect" not in names
    assert "CloseChannel" in [type(effect).__name__ for effect in machine.handle(Drained(member), 0.0)]
    assert machine.handle(Built((), ((member, "x"),)), 0.0) == []


def test_a_member_that_is_not_drained_yet_is_not_closed() -> None:
    world = connected(size=2)
    busy = world.ready[0]
    world.lease(busy)
    world.lease(world.ready[1])
    world.ask(Resize, by=-1)
    draining = next(member for member in world.channels if member.retired)
    world.tell(Drained(draining))
    assert draining in world.channels
    for state in Connectivity:
        world.observe(draining, state)
    assert world.phases().count("draining") == 1


def test_republish_publishes_what_is_there() -> None:
    world = connected(size=2)
    before, world.ready = world.ready, ()
    world.tell(Republish())
    assert world.ready == before


def test_a_closed_pool_publishes_no_more() -> None:
    world = connected(size=2)
    world.tell(Close())
    assert world.machine.handle(Republish(), world.clock()) == []
