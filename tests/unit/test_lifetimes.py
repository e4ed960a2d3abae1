"""Members that become too old: the new one first, then the old one goes, and never many at a time."""

from __future__ import annotations

from typing import Any

import pytest

from grpcpool import events
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.health import HOLD
from grpcpool.core.lifetimes import AT_ONCE, JITTER
from grpcpool.core.member import Member
from grpcpool.core.messages import Close, Observed, Resize, Served, Tick
from grpcpool.core.slot import Phase
from grpcpool.errors import PoolClosed

from .world import FAILED, READY, World, connected, opened

LIFETIME = 100.0


def aging(*targets: str, **policy: Any) -> World:
    return connected(*targets, **{"max_lifetime": LIFETIME, **policy})


def grow_old(world: World) -> Member:
    """Let the time come for a member to be replaced, and return the one that is to replace it."""
    count = len(world.ever)
    while len(world.ever) == count:
        assert world.machine.wake_at is not None
        world.clock.now = world.machine.wake_at
        world.tell(Tick())
    assert len(world.ever) == count + 1
    return world.newest()


def replacements(world: World) -> list[Member]:
    return [member for member, slot in world.machine.slots.items() if slot.replaces is not None]


def replaced(world: World) -> Member:
    (slot,) = [slot.replaces for slot in world.machine.slots.values() if slot.replaces is not None]
    return slot.member


# --- how it goes


def test_the_replacement_is_connected_before_the_old_one_leaves() -> None:
    world = aging(size=1)
    (old,) = world.ready
    lease = world.lease(old)
    new = grow_old(world)
    age = world.clock() - 100.0
    assert world.ready == (old,)
    world.observe(new, Connectivity.CONNECTING)
    assert world.ready == (old,)
    assert world.told(events.Recycled) == []
    world.clock.advance(2)
    world.observe(new, READY)
    assert world.ready == (new,)
    assert world.told(events.Recycled) == [
        events.Recycled(
            pool="world", member=0, endpoint="a", replacement=1, age=age + 2, reason="max_lifetime of 100 s has passed"
        )
    ]
    assert old in world.channels, "it still has an RPC"
    world.end(lease)
    assert world.closed == [old]
    assert (world.machine.size, world.machine.lifetimes.recycled) == (1, 1)
    assert (world.machine.sizing.grown, world.machine.sizing.shrunk) == (0, 0)


def test_there_is_no_moment_without_a_member() -> None:
    world = aging(size=1)
    for _ in range(5):
        world.observe(grow_old(world), READY)
        assert len(world.ready) == 1
    assert world.machine.lifetimes.recycled == 5
    assert world.reports == [Connectivity.CONNECTING, READY]


def test_a_primer_runs_before_the_old_one_leaves() -> None:
    world = opened(size=1, max_lifetime=LIFETIME, primed=True)
    world.connect_all()
    world.prime(world.newest())
    (old,) = world.ready
    new = grow_old(world)
    world.observe(new, READY)
    assert world.ready == (old,)
    world.prime(new)
    assert world.ready == (new,)


def test_its_server_says_that_it_serves_before_the_old_one_leaves() -> None:
    world = opened(size=1, max_lifetime=LIFETIME, watched=True)
    world.connect_all()
    (old,) = world.watched
    world.tell(Served(old, True, ""))
    new = grow_old(world)
    world.observe(new, READY)
    assert world.watched == [old, new]
    assert world.ready == (old,)
    assert world.told(events.Recycled) == []
    world.clock.advance(0.5)
    world.tell(Served(new, True, ""))
    assert world.ready == (new,)
    assert world.closed == [old]
    assert len(world.told(events.Recycled)) == 1


def test_a_server_that_does_not_say_whether_it_serves_is_not_waited_for_long() -> None:
    world = opened(size=1, max_lifetime=LIFETIME, watched=True)
    world.connect_all()
    (old,) = world.watched
    world.tell(Served(old, True, ""))
    new = grow_old(world)
    world.observe(new, READY)
    world.pass_time(HOLD)
    assert world.ready == (new,)
    assert world.closed == [old]


@pytest.mark.parametrize("both", [False, True])
def test_a_server_that_does_not_serve_takes_the_place_only_of_one_that_does_not_either(both: bool) -> None:
    world = opened(size=1, max_lifetime=LIFETIME, watched=True, backoff_max=30.0)
    world.connect_all()
    (old,) = world.watched
    world.tell(Served(old, True, ""))
    new = grow_old(world)
    world.observe(new, READY)
    if both:
        world.tell(Served(old, False, "NOT_SERVING"))
    world.tell(Served(new, False, "NOT_SERVING"))
    # The last resort, for there is nobody else.
    assert world.ready == (new if both else old,)
    assert world.machine.lifetimes.recycled == both
    if not both:
        assert world.told(events.Drained)[0].reason == "it could not replace member 0: its server does not serve"


@pytest.mark.parametrize("how", ["lost", "closed from outside", "deaf"])
def test_a_replacement_that_is_lost_while_its_server_is_asked_leaves_the_old_one(how: str) -> None:
    # (Between two pings there is usually more time than a server is given for its answer.)
    world = opened(size=1, max_lifetime=LIFETIME, watched=True, ping_interval=HOLD / 3)
    world.connect_all()
    (old,) = world.watched
    world.tell(Served(old, True, ""))
    new = grow_old(world)
    world.observe(new, READY)
    if how == "lost":
        world.fail(new)
    elif how == "closed from outside":
        world.observe(new, Connectivity.SHUTDOWN)
    else:
        world.pass_time(HOLD * 0.9)
        world.pong(new, "no answer")
    assert world.ready == (old,)
    assert new not in world.machine.slots
    assert len(world.machine.slots) == 1
    assert "it could not replace member 0: " in world.told(events.Drained)[0].reason


def test_a_replacement_whose_server_is_asked_is_better_than_nobody() -> None:
    world = opened(size=1, max_lifetime=LIFETIME, watched=True)
    world.connect_all()
    (old,) = world.watched
    world.tell(Served(old, True, ""))
    new = grow_old(world)
    world.observe(new, READY)
    world.observe(old, FAILED)
    assert world.ready == ()
    assert world.fallback == (new,)
    assert not world.hopeless


@pytest.mark.parametrize("connects", [True, False])
@pytest.mark.parametrize("how", ["shrink", "closed from outside"])
def test_without_max_lifetime_a_replacement_whose_old_one_has_left_is_seen_to(how: str, connects: bool) -> None:
    world = connected(size=2)
    old, other = world.ready
    world.machine.lifetimes.hurry(world.machine.slots[old], "it is of no use", world.clock())
    world.tell(Tick())
    new = world.newest()
    world.observe(new, Connectivity.CONNECTING)
    if how == "shrink":
        world.machine.health.ejections.eject(world.machine.slots[old], "deaf", world.clock(), silent=True)
        world.ask(Resize, by=-1)
    else:
        world.observe(old, Connectivity.SHUTDOWN)
    assert old not in world.channels
    if connects:
        world.observe(new, READY)
    else:
        world.fail(new)
    members = world.machine.slots.values()
    assert not any(slot.joining or slot.replaces for slot in members)
    assert len(members) == world.machine.size
    assert other in world.ready


def test_it_goes_where_the_old_one_was() -> None:
    world = aging("a", "b", "c", size=7)
    before = sorted(member.endpoint for member in world.ready)
    for _ in range(7):
        new = grow_old(world)
        assert new.endpoint == replaced(world).endpoint
        world.observe(new, READY)
        assert sorted(member.endpoint for member in world.ready) == before
    assert min(member.id for member in world.ready) == 7


def test_without_max_lifetime_nobody_grows_old() -> None:
    world = connected(size=2)
    assert world.machine.wake_at is None
    world.clock.advance(1e9)
    world.tell(Tick())
    assert len(world.ever) == 2


# --- when


def test_each_lifetime_falls_short_by_a_tenth_at_most() -> None:
    world = aging(size=200)
    left = [slot.expires - 100.0 for slot in world.machine.slots.values() if slot.expires is not None]
    assert len(left) == 200
    assert all(LIFETIME * (1 - JITTER) <= each <= LIFETIME for each in left)
    # All over that tenth, for it is to keep them apart.
    assert min(left) < 91
    assert max(left) > 99
    assert world.machine.wake_at == 100.0 + min(left)


def test_age_is_counted_from_the_first_connection_on_whatever_happens_to_it_later() -> None:
    world = opened(size=1, max_lifetime=LIFETIME)
    (member,) = world.channels
    world.clock.advance(500)
    world.tell(Tick())
    world.observe(member, READY)
    expires = world.machine.slots[member].expires
    assert expires is not None
    assert 590 <= expires - 100.0 <= 600
    world.clock.advance(50)
    world.observe(member, Connectivity.IDLE)
    world.observe(member, READY)
    assert world.machine.slots[member].expires == expires


@pytest.mark.parametrize(("size", "at_once"), [(1, 1), (9, 1), (19, 1), (20, 2), (50, 5)])
def test_a_tenth_of_the_members_are_replaced_at_a_time_and_one_at_least(size: int, at_once: int) -> None:
    world = aging(size=size)
    world.clock.advance(LIFETIME)
    for _ in range(3):
        world.tell(Tick())
        assert len(replacements(world)) == at_once == max(int(size * AT_ONCE), 1)
    # The next one begins when one of them is done, and at once.
    world.observe(replacements(world)[0], READY)
    assert len(replacements(world)) == min(at_once, size - 1)
    assert world.machine.lifetimes.recycled == 1
    while replacements(world):
        world.observe(replacements(world)[0], READY)
    assert world.machine.lifetimes.recycled == size
    assert len(world.ready) == size


def test_the_oldest_go_first() -> None:
    world = aging(size=5)
    world.clock.advance(LIFETIME)
    order = sorted(world.machine.slots.values(), key=lambda slot: slot.expires or 0)
    for slot in order:
        world.tell(Tick())
        assert replaced(world) is slot.member
        world.observe(world.newest(), READY)


def test_whoever_is_not_connected_is_not_replaced_for_its_age() -> None:
    world = aging(size=1)
    (member,) = world.ready
    world.observe(member, Connectivity.CONNECTING)
    world.clock.advance(2 * LIFETIME)
    world.tell(Tick())
    assert replacements(world) == []
    world.observe(member, READY)
    assert len(replacements(world)) == 1


# --- when it does not go well


@pytest.mark.parametrize("how", ["refused", "closed from outside", "cannot be made", "primer"])
def test_a_replacement_that_does_not_come_leaves_the_old_one_and_is_tried_again_later(how: str) -> None:
    world = opened(size=1, max_lifetime=LIFETIME, backoff_max=30.0, primed=how == "primer", primer_timeout=5.0)
    world.connect_all()
    if how == "primer":
        world.prime(world.newest())
    (old,) = world.ready
    if how == "cannot be made":
        world.unbuildable.add("a")
    new = grow_old(world)
    if how == "refused":
        world.fail(new)
    elif how == "closed from outside":
        world.observe(new, Connectivity.SHUTDOWN)
    elif how == "primer":
        world.observe(new, READY)
        world.clock.advance(5)
        world.tell(Tick())
    world.unbuildable.clear()
    failed_at = world.clock()
    assert world.ready == (old,)
    assert new not in world.machine.slots
    assert "it could not replace member 0: " in world.told(events.Drained)[0].reason
    again = grow_old(world)
    assert world.clock() == failed_at + 30
    world.observe(again, READY)
    if how == "primer":
        world.prime(again)
    assert world.ready == (again,)
    assert world.machine.lifetimes.recycled == len(world.told(events.Recycled)) == 1


def test_when_the_old_one_has_lost_its_connection_meanwhile_the_new_one_still_takes_its_place() -> None:
    world = aging(size=1)
    (old,) = world.ready
    new = grow_old(world)
    world.observe(old, FAILED)
    assert world.ready == ()
    assert world.fallback == (old,)
    world.observe(new, READY)
    assert world.ready == (new,)
    assert world.closed == [old]
    assert len(world.told(events.Recycled)) == 1


def test_when_the_old_one_has_been_rebuilt_meanwhile_whoever_is_not_connected_goes() -> None:
    world = aging(size=1, max_reconnect_attempts=1)
    (old,) = world.ready
    new = grow_old(world)
    world.fail(old)
    rebuilt = world.newest()
    assert rebuilt is not new
    world.observe(new, READY)
    assert world.ready == (new,)
    assert set(world.closed) == {old, rebuilt}
    assert world.told(events.Recycled) == []
    assert world.machine.lifetimes.recycled == 0
    assert "came for one that had left already" in world.told(events.Drained)[-1].reason


def test_when_the_rebuilt_one_is_connected_first_the_new_one_is_too_many() -> None:
    world = aging(size=1, max_reconnect_attempts=1)
    (old,) = world.ready
    new = grow_old(world)
    world.fail(old)
    rebuilt = world.newest()
    world.observe(rebuilt, READY)
    world.lease(rebuilt)
    world.observe(new, READY)
    assert world.ready == (rebuilt,)
    assert set(world.closed) == {old, new}


def test_when_the_old_one_has_left_with_a_resize_meanwhile_one_is_too_many() -> None:
    world = aging(size=3)
    new = grow_old(world)
    old = replaced(world)
    for member in world.ready:
        if member is not old:
            world.run(2, member)
    assert world.ask(Resize, to=2).result(0) == 2
    assert old in world.closed
    world.observe(new, READY)
    assert len(world.ready) == 2
    assert world.told(events.Recycled) == []


def test_a_resize_up_during_a_replacement_counts_neither_twice() -> None:
    world = aging(size=2)
    new = grow_old(world)
    old = replaced(world)
    ticket = world.ask(Resize, to=4)
    joiners = [member for member, slot in world.machine.slots.items() if slot.joining and slot.replaces is None]
    world.observe(joiners[0], READY)
    world.observe(new, READY)
    assert old in world.closed
    world.observe(joiners[1], READY)
    assert ticket.result(0) == 4
    assert len(world.ready) == 4
    assert world.machine.lifetimes.recycled == 1


def test_a_resize_down_during_a_replacement_takes_out_as_many_as_asked() -> None:
    world = aging(size=4)
    new = grow_old(world)
    world.run(1, replaced(world))
    assert world.ask(Resize, by=-2).result(0) == 2
    assert len(world.ready) == 2
    world.observe(new, READY)
    assert len(world.ready) == 2
    assert new in world.ready
    assert world.machine.lifetimes.recycled == 1


@pytest.mark.parametrize("to", [1, 2])
@pytest.mark.parametrize("busy", [False, True], ids=["the old one goes", "the old one stays"])
def test_a_replacement_that_connects_in_the_moment_of_a_resize_leaves_the_right_number(to: int, busy: bool) -> None:
    world = aging(size=3)
    new = grow_old(world)
    old = replaced(world)
    for member in world.ready:
        if (member is old) == busy:
            world.lease(member)
    world.channels[new] = READY
    world.driver.post(Observed(new, READY))
    world.ask(Resize, to=to)
    assert world.machine.size == len(world.ready) == to
    assert world.machine.lifetimes.recycled == busy


def test_two_replacements_that_connect_in_the_same_moment_both_take_over() -> None:
    world = aging(size=20)
    world.clock.advance(LIFETIME)
    world.tell(Tick())
    for new in replacements(world):
        world.channels[new] = READY
        world.driver.post(Observed(new, READY))
    world.driver.pump()
    world.check()
    assert len(world.ready) == 20
    assert world.machine.lifetimes.recycled == 2


def test_an_endless_stream_on_an_old_member_does_not_keep_the_others_from_being_replaced() -> None:
    world = aging(size=3)
    leases = [world.lease(member) for member in world.ready]
    world.clock.advance(LIFETIME)
    world.tell(Tick())
    for _ in range(3):
        world.observe(world.newest(), READY)
    assert world.machine.lifetimes.recycled == 3
    assert world.phases().count("draining") == 3
    for lease in leases:
        world.end(lease)
    assert len(world.channels) == 3


# --- the end


def test_a_close_during_a_replacement_ends_both() -> None:
    world = aging(size=2)
    lease = world.lease(world.ready[0])
    new = grow_old(world)
    world.tell(Close())
    world.tell(Observed(new, READY))
    assert world.told(events.Recycled) == []
    world.clock.advance(10 * LIFETIME)
    world.tell(Tick())
    world.end(lease)
    assert world.channels == {}
    assert len(world.ever) == 3
    assert world.machine.wake_at is None


def test_a_close_in_the_moment_of_connecting_ends_both() -> None:
    world = aging(size=1)
    new = grow_old(world)
    ticket = world.ask(Resize, by=1)
    world.driver.post(Observed(new, READY))
    world.tell(Close())
    assert world.channels == {}
    with pytest.raises(PoolClosed):
        ticket.result(0)


def test_recycling_shows_in_the_phases_of_the_members() -> None:
    world = aging(size=1)
    (old,) = world.ready
    world.lease(old)
    new = grow_old(world)
    assert world.machine.slots[new].phase is Phase.CONNECTING
    assert not world.machine.slots[new].active
    world.observe(new, READY)
    assert world.phases() == ["draining", "ready"]
    assert world.machine.slots[new].active
