"""Members that have left the picks: how long they stay, and what is said when they go."""

from __future__ import annotations

import pytest

from grpcpool import events
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.member import Member
from grpcpool.core.messages import Abort, Built, Close, CloseChannel, Drained, Open, Resize, Tick

from .world import World, connected


def leaving(**policy: object) -> tuple[World, Member]:
    """A pool of one, and a member that had to leave it with an RPC still running."""
    world = connected(**{"size": 2, **policy})
    first, second = world.ready
    world.run(2, first)
    world.run(1, second)
    assert world.ask(Resize, by=-1).result(0) == 1
    return world, second


def test_a_member_stays_until_its_last_rpc_ends_and_says_how_long_that_took() -> None:
    world, member = leaving()
    world.clock.advance(1e6)
    world.tell(Tick())
    assert member in world.channels
    assert world.machine.wake_at is None
    world.end(world.leases[-1])
    assert world.closed == [member]
    assert world.told(events.Drained) == [
        events.Drained(
            pool="world",
            member=1,
            endpoint="a",
            duration=1e6,
            cancelled=0,
            reason="the pool shrank: it was asked for",
        )
    ]
    assert world.machine.members.drained == 1


def test_at_the_end_of_drain_timeout_it_goes_and_says_what_it_cancelled() -> None:
    world, member = leaving(drain_timeout=8.0)
    world.clock.advance(7.9)
    world.tell(Tick())
    assert member in world.channels
    assert world.machine.wake_at == 108.0
    world.clock.advance(0.1)
    world.tell(Tick())
    assert world.closed == [member]
    (drained,) = world.told(events.Drained)
    assert (drained.duration, drained.cancelled) == (8.0, 1)
    (ended,) = world.told(events.Disconnected)
    assert ended.reason == "it was drained for 8 s (drain_timeout)"
    # What it cancelled ends a moment later.
    world.end(world.leases[-1])
    assert len(world.told(events.Drained)) == world.machine.members.drained == 1


def test_drain_timeout_is_none_of_the_business_of_those_who_end_in_time() -> None:
    world, member = leaving(drain_timeout=8.0)
    world.clock.advance(3)
    world.end(world.leases[-1])
    assert world.closed == [member]
    assert world.machine.wake_at is None


def test_a_member_with_nothing_to_do_goes_at_once() -> None:
    world = connected(size=2, drain_timeout=8.0)
    world.ask(Resize, by=-1)
    (drained,) = world.told(events.Drained)
    assert (drained.duration, drained.cancelled) == (0.0, 0)


def test_each_member_has_a_drain_timeout_of_its_own() -> None:
    world = connected(size=3, drain_timeout=8.0)
    for member in world.ready:
        world.lease(member)
    world.ask(Resize, by=-1)
    world.clock.advance(5)
    world.ask(Resize, by=-1)
    world.clock.advance(3)
    world.tell(Tick())
    assert len(world.closed) == 1
    assert world.machine.wake_at == 113.0
    world.clock.advance(5)
    world.tell(Tick())
    assert len(world.closed) == 2


def test_drain_timeout_holds_for_a_closed_pool_too() -> None:
    world = connected(size=2, drain_timeout=8.0)
    world.lease(world.ready[0])
    world.tell(Close())
    world.clock.advance(8)
    world.tell(Tick())
    assert world.channels == {}
    assert [event.cancelled for event in world.told(events.Drained)] == [0, 1]
    assert len(world.told(events.Closed)) == 1


def test_an_abort_says_what_it_cancels() -> None:
    world = connected(size=2)
    world.run(5, world.ready[0])
    world.tell(Close())
    world.clock.advance(2)
    world.tell(Abort())
    reasons = {(event.cancelled, event.duration, event.reason) for event in world.told(events.Drained)}
    assert reasons == {(0, 0.0, "the pool was closed"), (5, 2.0, "the pool was closed")}


def test_a_member_that_was_drained_for_too_long_before_its_channel_was_made_leaves_none_behind() -> None:
    machine = World(size=1, drain_timeout=8.0).machine
    machine.handle(Open(), 0.0)
    (member,) = machine.slots
    machine.handle(Close(), 0.0)
    machine.handle(Tick(), 8.0)
    assert machine.slots == {}
    effects = machine.handle(Built((member,)), 9.0)
    assert CloseChannel(member) in effects


@pytest.mark.parametrize("state", list(Connectivity))
def test_what_becomes_of_its_connection_does_not_prolong_or_end_it(state: Connectivity) -> None:
    world, member = leaving(drain_timeout=8.0)
    world.observe(member, state)
    world.tell(Drained(member))
    assert member in world.channels
    world.clock.advance(8)
    world.tell(Tick())
    assert world.closed == [member]
