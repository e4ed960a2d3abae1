"""How long a member is out of the picks, and how it comes back."""

from __future__ import annotations

import pytest

from grpcpool import events
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.ejections import JITTER
from grpcpool.core.messages import Probed

from .ailing import ROW, answer_pings, eject, ejection, half_open, pool, stats
from .world import FAILED, READY

# --- out, and back


def test_it_is_half_open_when_its_time_is_over_and_one_answer_brings_it_back() -> None:
    world = pool(**ROW)
    bad, *others = world.ready
    eject(world, bad)
    until = ejection(world, bad).until
    answer_pings(world, until - world.clock.now - 0.1)
    assert world.probes == ()
    assert world.ready == tuple(others)
    half_open(world, bad)
    assert stats(world).members[0].state == "probing"
    assert [(e.member, e.reason) for e in world.told(events.Probing)] == [(bad.id, "its time is over")]
    # It is given out once, and then the picks are bare again.
    assert world.probe() is bad
    assert world.probes == ()
    lease = world.lease(bad)
    world.pass_time(3)
    assert world.probes == ()
    assert bad not in world.ready
    world.end(lease)
    world.pass_time(0.2)
    assert bad in world.ready
    (told,) = world.told(events.Readmitted)
    assert (told.member, told.reason) == (bad.id, "an RPC was answered")
    assert told.duration >= 4.5
    assert stats(world).members[0].state == "ready"


def test_one_failure_takes_it_out_again_for_twice_as_long_up_to_a_limit() -> None:
    world = pool(**ROW, ejection_max=60.0)
    bad = world.ready[0]
    eject(world, bad)
    for _ in range(5):
        half_open(world, bad)
        world.call(world.probe(), "failed")
        assert bad not in world.ready
        assert world.probes == ()
    told = world.told(events.Ejected)
    assert [event.attempt for event in told] == [1, 2, 3, 4, 5, 6]
    shares = [event.duration / nominal for event, nominal in zip(told, [5, 10, 20, 40, 60, 60], strict=True)]
    assert all(1 - JITTER <= share <= 1 + JITTER for share in shares)
    assert all(event.duration <= 60 for event in told)
    assert len(set(shares[:4])) == 4, "no two are alike"
    assert told[-1].reason == "the RPC that it was tried with failed"


def test_after_a_quiet_while_the_growth_is_forgotten() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    half_open(world, bad)
    world.call(world.probe(), "failed")
    half_open(world, bad)
    world.call(world.probe())
    world.pass_time(5)
    eject(world, bad)
    assert world.told(events.Ejected)[-1].attempt == 3
    half_open(world, bad)
    world.call(world.probe())
    world.pass_time(23)
    eject(world, bad)
    assert world.told(events.Ejected)[-1].attempt == 1


def test_a_probe_whose_caller_cancels_it_is_followed_by_another() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    half_open(world, bad)
    world.call(world.probe(), "dropped")
    world.pass_time(0.2)
    assert world.probes == (bad,)
    world.call(world.probe())
    world.pass_time(0.2)
    assert bad in world.ready


def test_a_probe_that_is_over_before_it_is_known_to_have_been_given_is_followed_by_another() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    half_open(world, bad)
    lease = world.lease(bad)
    # The picks give it out once, until they are published anew.
    world.probes = ()
    world.end(lease, "dropped")
    world.tell(Probed(bad))
    assert world.probes == (bad,)


@pytest.mark.parametrize(("before", "end"), [("answered", "failed"), ("failed", "dropped"), ("failed", "answered")])
def test_what_may_be_the_end_of_another_rpc_is_not_taken_for_the_probes(before: str, end: str) -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    (old,) = world.run(1, bad)
    eject(world, bad)
    half_open(world, bad)
    lease = world.lease(world.probe())
    world.end(old, before)
    world.end(lease, end)
    world.pass_time(0.2)
    assert stats(world).members[0].state == "probing"
    world.call(world.probe(), "failed")
    assert world.told(events.Ejected)[-1].attempt == 2


def test_a_probe_that_never_began_is_given_out_anew() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    half_open(world, bad)
    world.probe()
    world.pass_time(0.9)
    assert world.probes == ()
    world.pass_time(0.2)
    assert world.probes == (bad,)


def test_a_probe_that_runs_on_is_good_enough_if_pings_are_answered() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    half_open(world, bad)
    world.lease(world.probe())
    answer_pings(world, 4.8)
    assert bad not in world.ready
    answer_pings(world, 0.5)
    assert bad in world.ready


def test_a_probe_that_runs_on_is_not_good_enough_if_they_are_not() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    half_open(world, bad)
    lease = world.lease(world.probe())
    answer_pings(world, 30, "no answer within 2 s", 2.0)
    assert bad not in world.ready
    world.end(lease, "failed")
    assert world.told(events.Ejected)[-1].attempt == 2


@pytest.mark.parametrize("end", ["answered", "failed"])
def test_rpcs_from_before_do_not_decide(end: str) -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    old = world.run(3, bad)
    eject(world, bad)
    half_open(world, bad)
    lease = world.lease(world.probe())
    for each in old:
        world.end(each, end)
    world.pass_time(0.5)
    assert bad not in world.ready
    assert stats(world).members[0].state == "probing"
    world.end(lease, "failed" if end == "failed" else "answered")
    world.pass_time(0.2)
    assert (bad in world.ready) == (end == "answered")


def test_an_ejected_member_that_connects_again_is_tried_at_once() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    world.observe(bad, Connectivity.IDLE)
    world.observe(bad, READY)
    assert world.probes == (bad,)
    assert world.told(events.Probing)[-1].reason == "it has connected again"
    world.call(world.probe())
    world.pass_time(0.2)
    assert bad in world.ready


def test_who_takes_the_place_of_an_ejected_member_is_tried_first_and_inherits_the_growth() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    world.observe(bad, Connectivity.SHUTDOWN)
    successor = world.newest()
    assert bad in world.closed
    world.observe(successor, READY)
    assert world.probes == (successor,)
    world.call(world.probe(), "failed")
    assert world.told(events.Ejected)[-1].attempt == 2


# --- pings while it is out


def test_it_is_pinged_about_once_a_second() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    pinged = 0
    for _ in range(16):
        pinged += len(world.pings)
        answer_pings(world, 0.25)
    assert 4 <= pinged <= 5
    assert world.timeouts[bad] == 2.0
    # Nobody is told of these pings, but of what comes of them.
    assert world.told(events.Pinged) == []


def test_no_ping_takes_longer_than_was_configured() -> None:
    world = pool(**ROW, ping_timeout=0.5)
    eject(world, world.ready[0])
    assert list(world.timeouts.values()) == [0.5]


def test_nobodys_rpc_is_sent_to_a_member_that_answers_no_ping() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    answer_pings(world, 400, "no answer within 2 s", 2.0)
    assert world.told(events.Probing) == []
    (member,) = world.pings
    world.pong(member, None, 0.9)
    assert world.told(events.Probing)[-1].reason == "it answers again"
    assert world.probes == (bad,)


def test_before_the_first_ping_has_ended_it_is_not_tried_either() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    world.pass_time(20)
    assert world.probes == ()
    world.pong(bad)
    assert world.probes == (bad,)


def test_one_that_was_silent_and_answers_is_tried_at_once_whatever_time_it_had_left() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    world.pass_time(1.5)
    # Answered, but late: it has just come back, or is always like that.
    world.pong(bad, None, 1.5)
    assert world.probes == ()
    world.pass_time(0.1)
    world.pong(bad)
    assert world.probes == (bad,)


def test_one_that_is_slow_to_answer_pings_sits_out_its_time() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    answer_pings(world, 4.4, None, 1.5)
    assert world.probes == ()
    answer_pings(world, 2, None, 1.5)
    assert world.probes == (bad,)


def test_one_that_refuses_pings_sits_out_its_time() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    answer_pings(world, 4.4, "unavailable")
    assert world.probes == ()
    answer_pings(world, 2, "unavailable")
    assert world.probes == (bad,)


def test_a_ping_that_outlives_the_connection_says_nothing() -> None:
    world = pool(**ROW)
    bad = world.ready[0]
    eject(world, bad)
    world.observe(bad, FAILED)
    assert world.questions == []
    world.pong(bad, "gone")
    assert world.questions == [bad]


def test_pings_of_idle_members_go_on_as_ever() -> None:
    world = pool(**ROW, ping_interval=5.0)
    bad = world.ready[0]
    eject(world, bad)
    answer_pings(world, 10)
    assert {event.result for event in world.told(events.Pinged)} == {"alive"}
    assert bad.id not in {event.member for event in world.told(events.Pinged)}
