"""Members that answer nothing: busy, deaf, or on connections that carry nothing any more."""

from __future__ import annotations

import itertools

import pytest

from grpcpool import events
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.member import Member

from .ailing import QUIET, ROW, answer_pings, be_silent, eject, ejection, keep_others_busy, pool
from .world import FAILED, READY, World


def test_a_member_that_answers_nothing_while_others_do_is_pinged_and_ejected_if_that_is_not_answered() -> None:
    world = pool(**QUIET)
    bad, *others = world.ready
    world.run(3, bad)
    be_silent(world, bad, 0.75)
    assert world.pings == []
    be_silent(world, bad, 0.75)
    assert world.pings == [bad]
    assert world.timeouts[bad] == 1.0
    be_silent(world, bad, 1.0)
    world.pong(bad, "no answer within 1 s", 1.0)
    assert world.ready == tuple(others)
    (told,) = world.told(events.Ejected)
    assert told.reason == "none of its RPCs was answered for 2.5 s, nor was a ping, while others were"
    # It is pinged on, and comes back as soon as it answers.
    answer_pings(world, 100, "no answer within 2 s", 2.0)
    assert world.probes == ()
    (member,) = world.pings
    world.pong(member)
    assert world.probes == (bad,)


def test_a_busy_server_with_slow_methods_is_never_ejected_and_doubted_less_and_less() -> None:
    world = pool(**QUIET)
    slow = world.ready[0]
    world.run(3, slow)
    asked = []
    for _ in range(4 * 120):
        be_silent(world, slow, 0.25)
        if world.pings:
            asked.append(world.clock.now)
            world.pong(slow)
    assert len(world.ready) == 3
    assert world.told(events.Ejected) == []
    gaps = [later - before for before, later in itertools.pairwise(asked)]
    assert len(asked) <= 8
    assert gaps == sorted(gaps)
    # When it has answered something, it is doubted as soon as before.
    world.end(world.leases[0])
    world.pass_time(0.25)
    be_silent(world, slow, 1.5)
    assert world.pings == [slow]


@pytest.mark.parametrize("end", ["failed", "dropped"])
def test_rpcs_that_fail_or_are_given_up_are_no_answers(end: str) -> None:
    world = pool(**QUIET)
    bad = world.ready[0]
    world.run(6, bad)
    for _ in range(5):
        be_silent(world, bad, 0.25)
        world.end(world.leases[0], end)
    be_silent(world, bad, 0.25)
    assert world.pings == [bad]


def test_while_nobody_answers_nobody_is_ejected_but_it_is_asked_whether_they_are_there() -> None:
    world = pool(**QUIET)
    for member in world.ready:
        world.run(3, member)
    world.pass_time(4)
    assert world.pings == []
    world.pass_time(2)
    assert set(world.pings) == set(world.ready)
    for member in list(world.pings):
        world.pong(member, "no answer within 1 s", 1.0)
    assert len(world.ready) == 3
    assert world.told(events.Ejected) == []


# --- connections that carry nothing any more

DEAF = ("no answer within 2 s", 2.0)


def go_deaf(world: World, seconds: float) -> None:
    """Let so much time pass; each ping takes its full time, and ends in vain."""
    end = world.clock.now + seconds
    while world.clock.now < end:
        asked = list(world.pings)
        world.pass_time(2.0 if asked else 0.25)
        for member in asked:
            if member in world.pings:
                world.pong(member, *DEAF)


def silent(world: World) -> Member:
    """Have a member ejected because it answers nothing, not even pings."""
    bad = world.ready[0]
    world.run(3, bad)
    be_silent(world, bad, 1.5)
    be_silent(world, bad, 1.0)
    world.pong(bad, "no answer within 1 s", 1.0)
    assert bad not in world.ready
    return bad


def replacement(world: World, member: Member) -> Member | None:
    slots = world.machine.slots.items()
    return next((new for new, slot in slots if slot.replaces is world.machine.slots[member]), None)


def test_a_connection_that_stays_silent_is_replaced_by_a_new_one_that_works() -> None:
    world = pool(**QUIET)
    bad = silent(world)
    assert replacement(world, bad) is None
    go_deaf(world, 8)
    new = replacement(world, bad)
    assert new is not None
    assert new.endpoint == bad.endpoint
    world.observe(new, READY)
    assert bad not in world.machine.slots or bad.retired
    assert new in world.ready
    assert len(world.ready) == 3
    (told,) = world.told(events.Recycled)
    assert told.reason.startswith("no ping was answered for")


def test_one_that_answers_again_before_is_left_alone() -> None:
    world = pool(**QUIET)
    bad = silent(world)
    go_deaf(world, 1)
    answer_pings(world, 1.5)
    assert world.probes == (bad,)
    answer_pings(world, 20)
    assert replacement(world, bad) is None


def test_one_that_answers_again_while_its_replacement_connects_leaves_all_the_same() -> None:
    world = pool(**QUIET)
    bad = silent(world)
    go_deaf(world, 8)
    new = replacement(world, bad)
    assert new is not None
    answer_pings(world, 1.5)
    world.observe(new, READY)
    assert bad.retired
    assert len([slot for slot in world.machine.slots.values() if slot.active]) == 3


def test_one_that_answers_again_while_its_replacement_fails_stays() -> None:
    world = pool(**QUIET)
    bad = silent(world)
    go_deaf(world, 8)
    new = replacement(world, bad)
    assert new is not None
    world.observe(new, FAILED)
    world.pass_time(1)
    world.pong(bad)
    # Only now it is known why the other one fails.
    world.answer(new, "refused")
    answer_pings(world, 40)
    assert replacement(world, bad) is None
    assert not bad.retired
    assert world.told(events.Recycled) == world.told(events.MaintenanceFailed) == []
    # Should it fall silent once more, another one is made.
    go_deaf(world, 8)
    assert replacement(world, bad) is not None


def test_one_that_answers_again_is_as_old_as_it_was() -> None:
    world = pool(**QUIET, max_lifetime=1000.0)
    bad = world.ready[0]
    due = world.machine.slots[bad].expires
    assert silent(world) is bad
    go_deaf(world, 8)
    assert replacement(world, bad) is not None
    answer_pings(world, 1.5)
    assert world.machine.slots[bad].expires == due


def test_a_replacement_that_does_not_connect_is_tried_again_soon() -> None:
    world = pool(**QUIET, backoff_min=1.0, connect_timeout=2.0)
    bad = silent(world)
    go_deaf(world, 8)
    new = replacement(world, bad)
    assert new is not None
    world.fail(new)
    go_deaf(world, 3)
    another = replacement(world, bad)
    assert another not in (None, new)
    assert not bad.retired


def test_if_all_fail_their_connections_are_asked_one_by_one_and_replaced() -> None:
    world = pool(**QUIET, **ROW)
    members = world.ready
    for _ in range(60):
        for member in world.ready:
            world.call(member, "failed", 5)
        assert len(world.pings) <= 1
        go_deaf(world, 0.25)
        if any(slot.replaces is not None for slot in world.machine.slots.values()):
            break
    assert world.told(events.PoolFailing)
    (new,) = (new for new, slot in world.machine.slots.items() if slot.replaces is not None)
    world.observe(new, READY)
    world.call(new, "answered", 5)
    world.pass_time(2)
    assert world.told(events.PoolRecovered)
    assert sum(member.retired for member in members) == 1


def test_without_that_layer_nobody_asks() -> None:
    world = pool(**ROW)
    for _ in range(20):
        for member in world.ready:
            world.call(member, "failed", 5)
        world.pass_time(1)
    assert world.told(events.PoolFailing)
    assert world.pings == []


def test_who_has_the_place_of_one_that_does_worse_is_tried_early() -> None:
    world = pool(**ROW)
    first, second, _ = world.ready
    eject(world, first)
    answer_pings(world, 1.5)
    assert world.probes == ()
    keep_others_busy(world, second)
    world.call(second, "failed", 5)
    # Only one of three may be out. But the first answers pings.
    assert world.probes == (first,)
    assert second in world.ready
    world.probe()
    world.call(first)
    answer_pings(world, 1)
    assert first in world.ready
    keep_others_busy(world, second)
    world.call(second, "failed", 5)
    assert second not in world.ready


def test_an_idle_member_is_not_doubted() -> None:
    world = pool(**QUIET)
    be_silent(world, world.ready[0], 10)
    assert world.pings == []


def test_streams_may_be_silent_for_as_long_as_they_like() -> None:
    world = pool(**QUIET)
    quiet = world.ready[0]
    world.lease(quiet).timed = False
    be_silent(world, quiet, 10)
    assert world.pings == []
    # What stands for a blocking call is a number.
    quiet.begin(world.clock(), timed=True)
    be_silent(world, quiet, 2)
    assert world.pings == [quiet]


def test_it_is_ejected_too_if_all_who_call_wait_for_it_in_the_end() -> None:
    world = pool(**QUIET)
    bad, *others = world.ready
    world.run(3, bad)
    world.pass_time(1.0)
    assert world.pings == [bad]
    world.pass_time(1.0)
    world.pong(bad, "no answer within 1 s", 1.0)
    assert world.ready == tuple(others)


@pytest.mark.parametrize("what", ["answered", "refused at once", "others too"])
def test_a_ping_that_is_not_answered_proves_nothing_if(what: str) -> None:
    world = pool(**QUIET)
    bad = world.ready[0]
    lease = world.run(2, bad)[0]
    while not world.pings:
        be_silent(world, bad, 0.25)
    if what == "others too":
        world.run(3, world.ready[1])
        world.pass_time(1.0)
    else:
        be_silent(world, bad, 1.0)
    if what == "answered":
        world.end(lease)
    world.pong(bad, "no answer", 0.1 if what == "refused at once" else 1.0)
    assert bad in world.ready
    assert world.told(events.Ejected) == []


def test_a_doubt_that_ends_after_the_connection_did_is_forgotten() -> None:
    world = pool(**QUIET)
    bad = world.ready[0]
    world.run(2, bad)
    be_silent(world, bad, 1.5)
    world.observe(bad, Connectivity.IDLE)
    world.observe(bad, READY)
    world.pong(bad, "no answer within 1 s", 1.0)
    assert bad in world.ready


def test_a_doubt_that_ends_when_it_is_ejected_for_something_else_is_taken_as_what_it_is() -> None:
    world = pool(**QUIET, **ROW)
    bad = world.ready[0]
    world.run(2, bad)
    be_silent(world, bad, 1.5)
    world.call(bad, "failed", 5)
    assert bad not in world.ready
    world.pong(bad, "no answer within 1 s", 1.0)
    assert ejection(world, bad).deaf is True
