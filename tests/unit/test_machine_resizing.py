"""What a pool decides when it is to grow or to shrink."""

from __future__ import annotations

import pytest

from grpcpool import events
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.messages import Resize, Tick
from grpcpool.errors import ScalingError

from .world import READY, connected, opened


def test_scaling_up_counts_a_new_member_when_it_is_connected() -> None:
    world = connected(size=1)
    world.clock.advance(1)
    ticket = world.ask(Resize, by=2)
    assert not ticket.done()
    new = [member for member in world.channels if member not in world.ready]
    world.observe(new[0], READY)
    assert len(world.ready) == 2
    world.clock.advance(0.5)
    world.observe(new[1], READY)
    assert ticket.result(0) == 3
    (scaled,) = world.told(events.ScaledUp)
    assert (scaled.duration, scaled.requested, scaled.succeeded, scaled.failed, scaled.new_size) == (0.5, 2, 2, 0, 3)


def test_new_members_are_not_offered_to_rpcs_before_they_are_connected() -> None:
    world = opened(size=1)
    (old,) = world.channels
    world.ask(Resize, by=1)
    assert world.fallback == (old,)


def test_members_that_do_not_connect_are_let_go_and_counted() -> None:
    world = connected(size=1)
    ticket = world.ask(Resize, by=3)
    new = [member for member in world.channels if member not in world.ready]
    world.observe(new[0], READY)
    world.fail(new[1], "refused")
    assert not ticket.done()
    world.clock.advance(10)
    world.tell(Tick())
    with pytest.raises(ScalingError, match="did not connect within 10 s") as caught:
        ticket.result(0)
    error = caught.value
    assert (error.requested, error.succeeded, error.failed, error.size) == (3, 1, 2, 2)
    assert world.closed == new[1:]
    assert len(world.ready) == 2
    assert world.told(events.ScaledUp)[0].failed == 2


def test_a_new_member_closed_from_outside_counts_as_failed() -> None:
    world = connected(size=1)
    ticket = world.ask(Resize, by=1)
    (new,) = [member for member in world.channels if member not in world.ready]
    world.observe(new, Connectivity.SHUTDOWN)
    with pytest.raises(ScalingError, match="closed from outside"):
        ticket.result(0)


def test_two_resizes_at_once_one_wins_and_the_other_is_told() -> None:
    world = connected(size=2)
    first = world.ask(Resize, by=1)
    for fields in ({"by": 1}, {"by": -1}, {"to": 5}):
        with pytest.raises(ScalingError, match="already scaling"):
            world.ask(Resize, **fields).result(0)
    world.connect_all()
    assert first.result(0) == 3


@pytest.mark.parametrize("fields", [{"by": -2}, {"by": -9}, {"to": 0}, {"to": -1}])
def test_a_resize_that_would_empty_the_pool_changes_nothing(fields: dict[str, int]) -> None:
    world = connected(size=2)
    before = world.ready
    with pytest.raises(ScalingError, match="must keep at least one"):
        world.ask(Resize, **fields).result(0)
    assert world.ready == before
    assert world.machine.size == 2


def test_scaling_down_lets_go_of_the_unconnected_first_then_of_those_with_least_to_do() -> None:
    world = opened(size=4)
    busy, idle, other, unconnected = world.channels
    for member in (busy, idle, other):
        world.observe(member, READY)
    running = [world.lease(busy), world.lease(busy), world.lease(other)]
    assert world.ask(Resize, by=-1).result(0) == 3
    assert world.closed == [unconnected]
    assert world.ask(Resize, by=-1).result(0) == 2
    assert world.closed == [unconnected, idle]
    assert world.ask(Resize, to=1).result(0) == 1
    assert world.ready == (busy,)
    assert other in world.channels, "it still has an RPC"
    world.end(running[2])
    assert world.closed == [unconnected, idle, other]
    assert [event.uptime for event in world.told(events.Disconnected)] == [0, 0]


def test_scaling_down_keeps_the_members_spread_over_the_targets() -> None:
    world = connected("a", "b", "c", size=9)
    world.ask(Resize, to=4)
    assert sorted(member.endpoint for member in world.ready) in (
        ["a", "a", "b", "c"],
        ["a", "b", "b", "c"],
        ["a", "b", "c", "c"],
    )


def test_a_resize_to_the_present_size_does_nothing() -> None:
    world = connected(size=2)
    assert world.ask(Resize, to=2).result(0) == 2
    assert world.told(events.ScaledDown) == world.told(events.ScaledUp) == []
