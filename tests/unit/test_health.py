"""Who is taken out of the picks although it is connected, and why."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from grpcpool import events
from grpcpool.core import snapshot
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.member import Member
from grpcpool.core.messages import Close, Probed, Resize, Served, Tick, Troubled

from .ailing import QUIET, RATE, ROW, answer_pings, be_silent, eject, half_open, keep_others_busy, pool, stats
from .world import FAILED, READY, World, connected

# --- failures in a row


def test_a_member_on_which_five_rpcs_in_a_row_failed_is_ejected() -> None:
    world = pool(**ROW)
    bad, *others = world.ready
    keep_others_busy(world, bad)
    world.call(bad, "failed", 4)
    assert bad in world.ready
    world.call(bad, "failed")
    assert world.ready == tuple(others)
    (told,) = world.told(events.Ejected)
    assert (told.member, told.attempt, told.reason) == (bad.id, 1, "5 RPCs in a row failed")
    assert 4.5 <= told.duration <= 5.5
    assert world.machine.ready_count == 2
    found = stats(world)
    assert found.ejections == 1
    assert [member.state for member in found.members] == ["ejected", "ready", "ready"]
    assert found.members[0].ejected_for == pytest.approx(told.duration)
    assert found.members[1].ejected_for is None
    assert (found.decisions[-1].what, found.decisions[-1].reason) == ("Ejected", "member 0: 5 RPCs in a row failed")
    assert "1 ejected, 2 ready" in snapshot.describe(world.machine)


@pytest.mark.parametrize("end", ["answered", "refused"])
def test_an_answer_ends_the_row_whatever_the_application_says(end: str) -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    for _ in range(10):
        world.call(bad, "failed", 4)
        world.call(bad, end)
    assert bad in world.ready
    assert world.told(events.Ejected) == []


def test_what_callers_cancel_counts_neither_way() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    keep_others_busy(world, bad)
    for _ in range(4):
        world.call(bad, "failed")
        world.call(bad, "dropped", 3)
    assert bad in world.ready
    world.call(bad, "failed")
    assert bad not in world.ready


def test_answers_that_refuse_are_never_held_against_a_member() -> None:
    world = pool(**ROW, **RATE, outlier_detection=True)
    world.call(world.ready[0], "refused", 500)
    world.pass_time(60)
    assert len(world.ready) == 3


def test_rpcs_that_are_still_running_do_not_end_the_row() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    keep_others_busy(world, bad)
    world.run(3, bad)
    world.call(bad, "failed", 2)
    world.run(3, bad)
    world.call(bad, "failed", 3)
    assert bad not in world.ready


def test_without_a_limit_any_number_may_fail() -> None:
    world = pool()
    world.call(world.ready[0], "failed", 100)
    world.pass_time(100)
    assert len(world.ready) == 3
    assert world.machine.wake_at is None


def test_failures_of_a_connection_that_breaks_are_left_to_connectivity() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    leases = world.run(5, bad)
    for lease in leases:
        world.leases.remove(lease)
        lease.fail(world.clock())
    world.observe(bad, FAILED)
    assert world.told(events.Ejected) == []


def test_what_is_said_of_a_member_that_is_gone_is_ignored() -> None:
    world = pool(**ROW)
    gone = world.ready[0]
    world.observe(gone, Connectivity.SHUTDOWN)
    assert gone in world.closed
    count = len(world.events)
    for message in (Troubled(gone), Probed(gone)):
        world.tell(message)
    world.tell(Probed(world.ready[0]))
    assert len(world.events) == count


# --- limits


def test_the_only_member_is_never_ejected() -> None:
    world = pool(1, **ROW)
    world.call(world.ready[0], "failed", 100)
    world.pass_time(5)
    assert len(world.ready) == 1
    (told,) = world.told(events.Spared)
    assert told.reason == "100 RPCs in a row failed; but it is the last one that is usable"


def test_of_two_members_one_may_be_ejected() -> None:
    world = pool(2, **ROW)
    bad, good = world.ready
    eject(world, bad)
    world.pass_time(0.2)
    world.call(good, "failed", 4)
    assert world.ready == (good,)


def test_while_nobody_else_does_well_either_a_member_is_judged_a_second_later() -> None:
    world = pool(3, **ROW, **QUIET)
    bad = world.ready[0]
    world.call(bad, "failed", 5)
    world.pass_time(0.9)
    assert bad in world.ready
    # It has recovered; and this time it does not.
    world.call(bad)
    world.pass_time(5)
    assert bad in world.ready
    world.call(bad, "failed", 5)
    world.pass_time(0.9)
    assert bad in world.ready
    world.pass_time(0.4)
    assert bad not in world.ready


def test_what_all_have_failed_in_at_one_moment_is_held_against_nobody() -> None:
    world = pool(3, **ROW, **QUIET)
    leases = [lease for member in world.ready for lease in world.run(8, member)]
    for member in world.ready:
        world.call(member)
    world.pass_time(0.9)
    # The deadlines of all calls pass at the same time; whose are looked at first is chance.
    for lease in leases[:10]:
        world.end(lease, "failed")
    assert len(world.ready) == 3
    for lease in leases[10:]:
        world.end(lease, "failed")
    for member in world.ready:
        world.call(member)
    world.pass_time(5)
    assert len(world.ready) == 3


def test_at_most_half_of_the_members_are_ejected_and_who_is_spared_is_told_once() -> None:
    world = pool(4, **ROW)
    first, second, third, fourth = world.ready
    for member in (first, second, third):
        world.call(fourth, "answered", 3)
        world.call(member, "failed", 5)
        answer_pings(world, 0.6)
    world.call(third, "failed", 20)
    assert world.ready == (third, fourth)
    (told,) = world.told(events.Spared)
    assert told.member == third.id
    assert told.reason == "5 RPCs in a row failed; but 2 of 4 members are out already"
    for told_by_then in (1, 2):
        assert len(world.told(events.Spared)) == told_by_then
        for _ in range(11):
            world.call(fourth)
            world.call(third, "failed", 5)
            answer_pings(world, 1)


def test_a_third_of_the_members_may_go_within_a_second_and_the_others_follow() -> None:
    world = pool(9, **ROW, unresponsive_after=1.0)
    good = world.ready[8]
    for member in world.ready[:4]:
        world.call(good, "answered", 3)
        world.call(member, "failed", 5)
    assert len(world.ready) == 6
    assert world.told(events.Spared)[0].reason == "5 RPCs in a row failed; but 3 have gone within 1 s"
    world.pass_time(1.3)
    assert len(world.ready) == 5


def test_below_half_of_the_members_all_are_used_again() -> None:
    world = pool(3, **ROW)
    bad, lost, good = world.ready
    eject(world, bad)
    assert world.told(events.Panicked) == []
    world.observe(lost, Connectivity.IDLE)
    assert world.ready == (bad, good)
    assert world.told(events.Panicked) == [events.Panicked(pool="world", usable=1, size=3)]
    world.pass_time(1)
    world.observe(lost, READY)
    assert world.ready == (lost, good)
    assert world.told(events.PanicEnded) == [events.PanicEnded(pool="world", duration=1.0)]
    told = {decision.what: decision.reason for decision in stats(world).decisions}
    assert told["Panicked"] == "only 1 of 3 members are usable"
    assert told["PanicEnded"] == "enough members are usable again after 1.0 s"


def test_when_all_fail_alike_nobody_is_ejected_and_the_pool_says_so() -> None:
    world = pool(4, **ROW)
    everybody = world.ready
    for _ in range(20):
        for member in everybody:
            world.call(member, "failed")
    assert world.ready == everybody
    assert world.told(events.PoolFailing) == [
        events.PoolFailing(pool="world", failing=4, connected=4, reason="5 RPCs in a row failed")
    ]
    assert world.told(events.Ejected) == []
    world.pass_time(10)
    assert len(world.told(events.PoolFailing)) == 1
    world.call(everybody[0])
    world.pass_time(1.1)
    assert world.told(events.PoolRecovered)[0].duration == pytest.approx(10, abs=2)
    # What was before is forgotten, and from now on each answers for itself.
    world.call(everybody[1], "failed", 4)
    keep_others_busy(world, everybody[1])
    world.pass_time(1.1)
    assert world.ready == everybody
    eject(world, everybody[1])


def test_who_was_ejected_before_all_others_began_to_fail_is_back_then() -> None:
    world = pool(3, **ROW, slow_start=5.0)
    first, second, third = world.ready
    eject(world, first)
    answer_pings(world, 3)
    world.call(second, "failed", 3)
    world.call(third, "failed", 5)
    assert world.ready == (first, second, third)
    assert world.warming == ()
    assert world.told(events.Readmitted)[0].reason == "it is the same with all"
    assert world.told(events.PoolFailing)[0].failing == 3


def test_one_that_does_well_shows_that_it_is_not_the_same_for_all() -> None:
    world = pool(3, **ROW)
    first, second, third = world.ready
    eject(world, first)
    world.pass_time(3)
    world.call(third)
    world.call(second, "failed", 5)
    assert world.told(events.PoolFailing) == []
    assert world.ready == (second, third)


# --- the success rate


def mix(world: World, member: Member, answered: int, failed: int) -> None:
    """Let so many RPCs end on the member, those that fail never many in a row."""
    for _ in range(max(answered, failed)):
        if answered:
            world.call(member)
            answered -= 1
        if failed:
            world.call(member, "failed")
            failed -= 1


def test_a_low_success_rate_leads_to_an_ejection() -> None:
    world = pool(**RATE)
    bad = world.ready[0]
    keep_others_busy(world, bad)
    mix(world, bad, 3, 1)
    world.pass_time(1)
    assert bad in world.ready, "too few calls to tell"
    mix(world, bad, 0, 1)
    keep_others_busy(world, bad)
    world.pass_time(1)
    assert bad not in world.ready
    (told,) = world.told(events.Ejected)
    assert told.reason == "60% of its RPCs succeeded in the last 30 s (at least 80%)"


def test_the_rate_is_that_of_the_window() -> None:
    world = pool(**RATE)
    bad = world.ready[0]
    keep_others_busy(world, bad)
    mix(world, bad, 4, 0)
    mix(world, bad, 0, 1)
    world.pass_time(20)
    mix(world, bad, 4, 1)
    world.pass_time(2)
    assert bad in world.ready, "just 80 %"
    world.pass_time(12)
    # Of the last 30 s there are 5 calls left, and one of them failed; now it is two of six.
    mix(world, bad, 0, 1)
    keep_others_busy(world, bad)
    world.pass_time(1)
    assert bad not in world.ready


def test_nobody_is_ejected_for_what_is_long_over() -> None:
    world = pool(**RATE)
    bad = world.ready[0]
    world.call(bad, "failed", 4)
    world.pass_time(1.1)
    # Now these are enough calls, and one of five is a bad rate; but the last one was answered.
    world.call(bad)
    world.pass_time(20)
    assert bad in world.ready
    world.call(bad, "failed")
    # Nobody else is asked anything, so it takes a second longer.
    world.pass_time(2.1)
    assert bad not in world.ready


def test_when_the_rates_of_all_are_low_the_pool_fails_as_a_whole() -> None:
    world = pool(**RATE)
    everybody = world.ready
    for member in everybody:
        mix(world, member, 5, 5)
    world.pass_time(1)
    assert world.ready == everybody
    assert len(world.told(events.PoolFailing)) == 1
    for member in everybody:
        mix(world, member, 10, 0)
    world.pass_time(2)
    assert len(world.told(events.PoolRecovered)) == 1
    world.pass_time(60)
    assert world.ready == everybody
    assert world.told(events.Ejected) == []


# --- outliers


def test_one_whose_rate_stands_out_among_many_is_ejected() -> None:
    world = pool(5, outlier_detection=True)
    bad, *others = world.ready
    for other in others:
        world.call(other, "answered", 100)
    mix(world, bad, 90, 10)
    world.pass_time(1)
    assert world.ready == tuple(others)
    assert world.told(events.Ejected)[0].reason == "90.0% of its RPCs succeeded in the last 10 s, and 98.0% of all"


@pytest.mark.parametrize(
    ("size", "calls", "failed"),
    [(4, 100, 30), (5, 80, 20), (5, 100, 4), (5, 200, 6)],
    ids=["too few members", "too few calls", "too few failures", "not much worse"],
)
def test_no_outliers_are_seen_where(size: int, calls: int, failed: int) -> None:
    world = pool(size, outlier_detection=True)
    bad, *others = world.ready
    for other in others:
        world.call(other, "answered", 100)
    mix(world, bad, calls - failed, failed)
    world.pass_time(1)
    assert bad in world.ready
    assert world.told(events.Spared) == []


def test_outliers_are_not_looked_for_unless_asked() -> None:
    world = pool(5, max_consecutive_failures=1000)
    bad, *others = world.ready
    for other in others:
        world.call(other, "answered", 100)
    mix(world, bad, 50, 50)
    world.pass_time(1)
    assert bad in world.ready


# --- time


@pytest.mark.parametrize("layer", [ROW, RATE], ids=["row", "rate"])
def test_what_fails_because_the_process_was_stopped_is_forgiven(layer: dict[str, Any]) -> None:
    world = pool(**layer)
    bad = world.ready[0]
    leases = world.run(10, bad)
    keep_others_busy(world, bad)
    world.clock.advance(60)
    for lease in leases:
        world.end(lease, "failed")
    world.pass_time(5)
    assert len(world.ready) == 3
    assert world.told(events.Ejected) == []
    # And from then on it counts.
    keep_others_busy(world, bad)
    world.call(bad, "failed", 5)
    world.pass_time(1.1)
    assert bad not in world.ready


def test_who_fails_what_began_after_the_process_was_stopped_is_not_forgiven() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    leases = world.run(10, bad)
    keep_others_busy(world, bad)
    world.clock.advance(60)
    world.tell(Tick())
    keep_others_busy(world, bad)
    for lease in leases:
        world.end(lease, "failed")
    world.pass_time(0.5)
    keep_others_busy(world, bad)
    world.call(bad, "failed", 4)
    assert bad in world.ready
    world.call(bad, "failed")
    assert bad not in world.ready
    assert [event.reason for event in world.told(events.Ejected)] == ["15 RPCs in a row failed"]


def test_silence_of_the_process_is_not_the_silence_of_a_server() -> None:
    world = pool(**QUIET)
    bad = world.ready[0]
    world.run(3, bad)
    be_silent(world, bad, 0.5)
    world.clock.advance(60)
    be_silent(world, bad, 0.75)
    assert world.pings == []
    be_silent(world, bad, 2)
    assert world.pings == [bad]


def test_an_ejection_that_ended_meanwhile_is_over() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    world.pong(bad)
    world.clock.advance(3600)
    world.tell(Tick())
    assert world.probes == (bad,)


def test_a_pool_that_closes_looks_after_nobody() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    world.lease(bad)
    eject(world, bad)
    world.tell(Close())
    assert world.machine.wake_at is None
    assert world.probes == ()


def test_large_pools_are_looked_at_less_often() -> None:
    world = connected(size=300, **QUIET)
    world.run(1)
    looks = []
    for _ in range(3):
        assert world.machine.wake_at is not None
        looks.append(world.machine.wake_at)
        world.clock.now = world.machine.wake_at
        world.tell(Tick())
    assert looks[2] - looks[1] == pytest.approx(0.3)


def test_a_large_pool_in_which_nothing_happens_is_hardly_looked_at() -> None:
    world = connected(size=300, **QUIET, **ROW)
    world.pass_time(10)
    looks = [world.machine.wake_at]
    for _ in range(3):
        world.pass_time(2.0)
        looks.append(world.machine.wake_at)
    assert [later - before for before, later in itertools.pairwise(looks)] == pytest.approx([2.0] * 3)
    # Once something does, it is seen as soon as ever, and what went before is not counted as silence.
    bad = world.ready[0]
    world.run(3, bad)
    be_silent(world, bad, 0.5)
    assert world.pings == []
    be_silent(world, bad, 3.0)
    assert world.pings == [bad]


def test_an_ejected_member_is_the_first_to_go_when_the_pool_shrinks() -> None:
    world = pool(**ROW)
    bad = world.ready[1]
    eject(world, bad)
    world.tell(Resize(None, by=-1))
    assert bad in world.closed
    assert len(world.ready) == 2


# --- slow start


def test_who_comes_back_from_an_ejection_warms_up() -> None:
    world = pool(**ROW, slow_start=5.0)
    bad = world.ready[0]
    eject(world, bad)
    half_open(world, bad)
    world.call(world.probe())
    while not world.told(events.Readmitted):
        world.pass_time(0.05)
    back = world.clock.now
    assert bad in world.ready
    assert world.warming == ((bad, back),)
    answer_pings(world, 4.9)
    assert world.warming == ((bad, back),)
    answer_pings(world, 0.2)
    assert world.warming == ()


def test_who_was_down_warms_up_and_who_connects_for_the_first_time_does_not() -> None:
    world = connected(size=3, slow_start=5.0)
    assert world.warming == ()
    lost = world.ready[0]
    world.observe(lost, Connectivity.IDLE)
    world.observe(lost, READY)
    assert world.warming == ()
    world.fail(lost)
    world.observe(lost, READY)
    assert world.warming == ((lost, world.clock.now),)
    assert world.machine.wake_at == world.clock.now + 5.0
    world.clock.advance(5)
    world.tell(Tick())
    assert world.warming == ()
    assert world.machine.wake_at is None


def test_without_slow_start_nobody_warms_up() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    half_open(world, bad)
    world.call(world.probe())
    world.pass_time(0.2)
    assert bad in world.ready
    assert world.warming == ()


# --- what servers say of themselves


def say(world: World, member: Member, serving: bool, detail: str = "") -> None:
    world.tell(Served(member, serving, detail))


def test_a_member_waits_for_its_server_to_say_that_it_serves() -> None:
    world = connected(size=2, watched=True)
    first, second = world.watched
    assert world.ready == ()
    assert world.fallback == (first, second)
    assert world.machine.ready_count == 0
    assert [member.state for member in stats(world).members] == ["checking", "checking"]
    say(world, first, True, "SERVING")
    assert world.ready == (first,)
    assert world.told(events.Panicked) == []
    # Not for ever: it may not answer such questions, or take its time.
    world.pass_time(0.9)
    assert world.ready == (first,)
    world.pass_time(0.2)
    assert world.ready == (first, second)
    assert world.machine.wake_at is None
    assert world.told(events.Serving) == []


def test_who_says_that_it_does_not_serve_is_out_at_once_and_back_at_once() -> None:
    world = connected(size=3, watched=True, slow_start=5.0)
    for member in world.watched:
        say(world, member, True, "SERVING")
    first, *others = world.ready
    for _ in range(2):
        say(world, first, False, "NOT_SERVING")
        assert world.ready == tuple(others)
    assert stats(world).members[0].state == "not serving"
    (told,) = world.told(events.NotServing)
    assert (told.member, told.reason) == (first.id, "NOT_SERVING")
    assert stats(world).decisions[-1].reason == "member 0: NOT_SERVING"
    for _ in range(2):
        say(world, first, True, "SERVING")
        assert world.ready == (first, *others)
    assert len(world.told(events.Serving)) == 1
    assert stats(world).decisions[-1].reason == "member 0: its server says that it serves again"


def test_each_new_connection_is_asked_about_anew() -> None:
    world = connected(size=2, watched=True)
    first, second = world.watched
    say(world, first, False, "NOT_SERVING")
    say(world, second, True, "SERVING")
    world.observe(first, Connectivity.IDLE)
    # Of the connection that is lost.
    say(world, first, True, "SERVING")
    world.observe(first, READY)
    assert world.watched == [first, second, first]
    assert world.ready == (second,)
    say(world, first, True, "SERVING")
    assert world.ready == (first, second)
    world.observe(first, Connectivity.SHUTDOWN)
    say(world, first, False)
    assert world.told(events.NotServing)[1:] == []


def test_if_too_few_serve_those_that_are_ejected_are_used_before_those_that_say_no() -> None:
    world = connected(size=4, watched=True, **ROW)
    for member in world.watched:
        say(world, member, True, "SERVING")
    world.pass_time(2)
    ejected, first, second, third = world.ready
    eject(world, ejected)
    say(world, first, False, "NOT_SERVING")
    say(world, second, False, "NOT_SERVING")
    assert world.ready == (ejected, third)
    world.observe(ejected, FAILED)
    say(world, third, False, "NOT_SERVING")
    assert world.ready == (first, second, third)
    assert len(world.told(events.Panicked)) == 1


def test_an_ejected_member_that_does_not_serve_is_not_tried() -> None:
    world = connected(size=3, watched=True, **ROW)
    for member in world.watched:
        say(world, member, True, "SERVING")
    world.pass_time(2)
    bad = world.ready[0]
    eject(world, bad)
    say(world, bad, False, "NOT_SERVING")
    answer_pings(world, 20)
    assert world.probes == ()
    say(world, bad, True, "SERVING")
    assert world.probes == (bad,)
