"""What a pool decides when the load, or its absence, says that it should have another size."""

from __future__ import annotations

from typing import Any

import pytest

from grpcpool import events
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.member import Member
from grpcpool.core.messages import Close, Full, Measure, Open, Resize, Tick
from grpcpool.core.slot import Phase
from grpcpool.errors import ScalingError

from .world import READY, World, connected

ELASTIC: dict[str, Any] = {"size": 2, "bounds": (2, 8), "band": (2.0, 8.0), "scale_down_interval": 5.0}


def elastic(*targets: str, **policy: Any) -> World:
    return connected(*targets, **{**ELASTIC, **policy})


def joiners(world: World) -> list[Member]:
    return [member for member, slot in world.machine.slots.items() if slot.joining]


def sizes(world: World) -> list[int]:
    return [event.new_size for event in world.events if isinstance(event, events.Scaling)]


# --- growing


def test_it_grows_at_once_when_the_load_passes_the_upper_edge() -> None:
    world = elastic()
    world.run(16)
    world.measure()
    assert joiners(world) == []
    world.run(1)
    world.measure()
    assert len(joiners(world)) == 2
    world.connect_all()
    assert world.machine.size == len(world.ready) == 4
    (scaled,) = world.told(events.ScaledUp)
    assert scaled == events.ScaledUp(
        pool="world",
        duration=0.0,
        requested=2,
        succeeded=2,
        failed=0,
        new_size=4,
        reason="17 RPCs run on 2 members, and 8 on each are enough",
    )


def test_it_grows_at_once_when_rpcs_begin_to_wait() -> None:
    world = elastic()
    world.run(5)
    world.wait_in_line(1)
    assert len(joiners(world)) == 1


def test_a_new_member_is_not_published_before_it_is_connected() -> None:
    world = elastic()
    old = world.ready
    world.run(17)
    world.measure()
    first, second = joiners(world)
    assert world.ready == old
    world.observe(first, Connectivity.CONNECTING)
    assert world.ready == old
    world.observe(second, READY)
    assert world.ready == (*old, second)
    world.observe(first, READY)
    assert world.ready == (*old, first, second)


def test_a_new_member_is_not_published_before_it_is_primed() -> None:
    world = elastic(primed=True)
    world.prime_all()
    old = world.ready
    assert len(old) == 2
    world.run(17)
    world.measure()
    world.connect_all()
    assert world.ready == old
    world.prime_all()
    assert world.machine.size == len(world.ready) == 4


def test_one_growth_at_a_time_and_the_next_one_starts_from_its_result() -> None:
    world = elastic()
    world.run(40)
    for _ in range(3):
        world.measure()
    assert len(joiners(world)) == 2
    world.connect_all()
    world.measure()
    world.connect_all()
    assert sizes(world) == [4, 8]


def test_draining_members_are_no_part_of_the_load() -> None:
    world = elastic(size=3)
    for member in world.ready:
        world.run(7, member)
    world.ask(Resize, to=2)
    assert "draining" in world.phases()
    world.measure()
    assert joiners(world) == []


def test_a_growth_that_fails_is_told_and_tried_again_after_a_while() -> None:
    world = elastic(backoff_min=1.0)
    world.run(17)
    world.measure()
    for member in joiners(world):
        world.fail(member)
    (scaled,) = world.told(events.ScaledUp)
    assert (scaled.succeeded, scaled.failed, scaled.new_size) == (0, 2, 2)
    made = len(world.ever)
    world.measure(0.9, every=0.1)
    assert len(world.ever) == made
    world.clock.advance(0.11)
    world.measure()
    assert len(joiners(world)) == 2
    world.connect_all()
    assert len(world.ready) == 4


def test_a_growth_of_which_some_members_do_not_come_counts_those_that_do() -> None:
    world = elastic(connect_timeout=10.0)
    world.run(17)
    world.measure()
    coming, missing = joiners(world)
    world.observe(coming, READY)
    world.clock.advance(10)
    world.tell(Tick())
    assert missing in world.closed
    assert coming in world.ready
    assert sizes(world) == [3]


def test_a_pool_of_fixed_size_does_not_mind_the_load() -> None:
    world = connected(size=2)
    world.run(500)
    world.wait_in_line(3)
    world.measure(60)
    assert (world.machine.size, len(world.ever)) == (2, 2)


# --- shrinking


def test_it_shrinks_after_a_while_and_those_with_least_to_do_go_first() -> None:
    world = elastic(size=8)
    busy = world.ready[2]
    leases = world.run(3, busy)
    world.measure(4.5)
    assert world.machine.size == 8
    world.measure(0.5)
    assert world.machine.size == 6
    assert busy in world.ready
    world.measure(60)
    assert world.machine.size == 2
    assert sizes(world) == [6, 5, 4, 3, 2]
    assert world.told(events.ScaledDown)[0].reason == "no more than 3 RPCs ran on 8 members for 5 s"
    assert busy in world.ready
    for lease in leases:
        world.end(lease)


def test_it_stays_spread_over_its_targets_while_it_shrinks() -> None:
    world = elastic("a", "b", size=8)
    for member in [member for member in world.ready if member.endpoint == "a"]:
        world.run(1, member)
    world.measure(60)
    assert sorted(member.endpoint for member in world.ready) == ["a", "b"]


def test_a_resize_from_outside_is_given_a_whole_interval() -> None:
    world = elastic(size=4)
    world.measure(4.5)
    ticket = world.ask(Resize, to=8)
    world.clock.advance(3)
    world.connect_all()
    assert ticket.result(0) == 8
    world.measure(4.5)
    assert world.machine.size == 8
    world.measure(0.5)
    assert world.machine.size == 6


def test_a_resize_downwards_begins_a_new_interval_too() -> None:
    world = elastic(size=8)
    world.measure(4.5)
    world.ask(Resize, to=7)
    world.measure(4.5)
    assert world.machine.size == 7
    world.measure(1)
    assert world.machine.size == 6


def test_up_and_down_with_the_load_and_never_twice_for_the_same() -> None:
    world = elastic()
    leases = world.run(40)
    for _ in range(3):
        world.measure()
        world.connect_all()
    world.measure(30)
    assert sizes(world) == [4, 8]
    for lease in leases:
        world.end(lease)
    world.measure(60)
    assert sizes(world) == [4, 8, 6, 5, 4, 3, 2]
    assert all(slot.phase is Phase.READY for slot in world.machine.slots.values())


# --- idleness


def idling(*targets: str, **policy: Any) -> World:
    # A band that never makes it shrink.
    world = elastic(*targets, **{"band": (0.0, 8.0), "max_idle": 10.0, **policy})
    world.measure()
    return world


def test_members_on_which_nothing_runs_leave_until_the_least_is_left() -> None:
    world = idling(size=5)
    world.measure(9.5)
    assert world.machine.size == 5
    world.measure(0.5)
    assert world.machine.size == len(world.ready) == 2
    scaled = world.told(events.ScaledDown)
    assert [event.new_size for event in scaled] == [4, 3, 2]
    assert scaled[0].reason == "member 0 was idle for 10 s"


def test_whoever_has_something_to_do_stays() -> None:
    world = idling(size=5)
    stream, unary, *others = world.ready
    world.run(1, stream)
    for _ in range(6):
        world.end(world.lease(unary))
        world.measure(3)
    assert world.ready == (stream, unary)
    assert set(world.closed) == set(others)


def test_the_time_that_a_member_was_not_connected_is_no_idleness() -> None:
    world = idling(size=3)
    member = world.ready[0]
    world.measure(6)
    world.observe(member, Connectivity.IDLE)
    for other in world.ready:
        world.run(1, other)
    world.observe(member, READY)
    world.measure(9)
    assert member in world.ready
    world.measure(1)
    assert member in world.closed


def test_the_last_connected_member_of_a_target_does_not_leave_for_idleness() -> None:
    world = idling("a", "b", size=4)
    first, lonely, second, _ = world.ready
    world.observe(world.ready[3], Connectivity.IDLE)
    world.run(1, first)
    world.run(1, second)
    world.measure(30)
    assert lonely in world.ready
    assert world.machine.size == 4


def test_without_max_idle_nobody_leaves_for_idleness() -> None:
    world = idling(size=5, max_idle=None)
    world.measure(100)
    assert world.machine.size == 5


# --- asked for as well


def test_a_resize_within_the_bounds_leaves_them_alone() -> None:
    world = elastic()
    ticket = world.ask(Resize, to=5)
    world.connect_all()
    assert ticket.result(0) == 5
    assert (world.machine.sizing.least, world.machine.sizing.most) == (2, 8)


def test_a_resize_beyond_the_bounds_moves_them() -> None:
    world = elastic()
    ticket = world.ask(Resize, to=12)
    world.connect_all()
    assert ticket.result(0) == 12
    assert (world.machine.sizing.least, world.machine.sizing.most) == (2, 12)
    assert world.ask(Resize, to=1).result(0) == 1
    assert (world.machine.sizing.least, world.machine.sizing.most) == (1, 12)


def test_a_resize_of_a_fixed_pool_moves_both_bounds() -> None:
    world = connected(size=3)
    assert world.ask(Resize, to=2).result(0) == 2
    assert (world.machine.sizing.least, world.machine.sizing.most) == (2, 2)
    ticket = world.ask(Resize, to=4)
    world.connect_all()
    assert ticket.result(0) == 4
    assert (world.machine.sizing.least, world.machine.sizing.most) == (4, 4)


def test_a_resize_while_the_load_makes_it_grow_is_told_so() -> None:
    world = elastic()
    world.run(17)
    world.measure()
    with pytest.raises(ScalingError, match="already scaling: 2 of 2 new members are still connecting"):
        world.ask(Resize, to=3).result(0)


def test_what_was_added_and_taken_out_is_counted() -> None:
    world = elastic()
    leases = world.run(17)
    world.measure()
    world.connect_all()
    for lease in leases:
        world.end(lease)
    world.measure(60)
    world.ask(Resize, to=1)
    assert (world.machine.sizing.grown, world.machine.sizing.shrunk) == (2, 3)


# --- saturation


def test_whoever_listens_is_told_of_saturation_once_a_second_at_most() -> None:
    world = connected(size=2)
    world.run(6)
    world.wait_in_line(4)
    assert world.told(events.Saturated) == [events.Saturated(pool="world", size=2, in_flight=6, waiting=4)]
    for _ in range(9):
        world.clock.advance(0.11)
        world.wait_in_line(0)
        world.wait_in_line(1)
    assert len(world.told(events.Saturated)) == 1
    world.clock.advance(0.02)
    world.tell(Full())
    assert len(world.told(events.Saturated)) == 2


# --- before and after


def test_nothing_is_measured_before_the_pool_is_open() -> None:
    world = World(**ELASTIC)
    world.line = world.line._replace(waiting=5)
    world.tell(Measure())
    assert (world.ever, world.events, world.machine.wake_at) == ([], [], None)
    world.tell(Open())
    assert len(world.ever) == 2


def test_nothing_is_measured_after_the_pool_was_closed() -> None:
    world = elastic()
    leases = world.run(17)
    world.tell(Close())
    told = len(world.events)
    world.wait_in_line(5)
    world.tell(Measure())
    assert (len(world.ever), len(world.events)) == (2, told)
    for lease in leases:
        world.end(lease)
    assert world.channels == {}


def test_a_close_ends_a_growth() -> None:
    world = elastic()
    leases = world.run(17)
    world.measure()
    world.tell(Close())
    for lease in leases:
        world.end(lease)
    assert world.channels == {}
    assert world.told(events.ScaledUp) == []
    assert world.machine.wake_at is None
