"""Members that are primed before they are picked: by primers that fail, hang, or outlive their connection."""

from __future__ import annotations

from typing import Any

import pytest

from grpcpool import events
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.member import Member
from grpcpool.core.members import PRIMINGS
from grpcpool.core.messages import Close, Explained, Primed, Resize, Tick, Wanted
from grpcpool.errors import ScalingError

from .world import FAILED, READY, World, opened

TIMEOUT = 5.0


def priming(*targets: str, **policy: Any) -> World:
    """A pool whose members are connected and being primed."""
    world = opened(*targets, **{"size": 2, "primed": True, "primer_timeout": TIMEOUT, **policy})
    world.connect_all()
    return world


def primed(*targets: str, **policy: Any) -> World:
    world = priming(*targets, **policy)
    world.prime_all()
    return world


def wait(world: World) -> None:
    """Let the time come for whatever is due next."""
    assert world.machine.wake_at is not None
    world.clock.now = max(world.machine.wake_at, world.clock.now)
    world.tell(Tick())


def join(world: World) -> tuple[Member, Any]:
    ticket = world.ask(Resize, by=1)
    new = world.newest()
    world.observe(new, READY)
    return new, ticket


# --- how it goes


def test_a_connected_member_is_primed_and_published_only_then() -> None:
    world = priming()
    first, second = world.channels
    assert world.phases() == ["priming", "priming"]
    assert world.primings == [first, second]
    assert world.ready == ()
    assert world.told(events.Connected) == []
    world.clock.advance(2)
    world.prime(first)
    assert world.phases() == ["ready", "priming"]
    assert world.ready == (first,)
    assert world.told(events.Connected) == [events.Connected(pool="world", member=0, endpoint="a", duration=2.0)]
    world.prime(second)
    assert world.ready == (first, second)
    assert world.machine.wake_at is None


def test_while_nobody_is_ready_rpcs_go_to_those_that_are_being_primed() -> None:
    world = priming()
    assert set(world.fallback) == set(world.channels)
    assert not world.hopeless
    assert world.reports == [Connectivity.CONNECTING]
    world.tell(Wanted())
    assert len(world.ever) == 2


def test_without_a_primer_nobody_is_primed() -> None:
    world = opened(size=1)
    world.connect_all()
    assert world.primings == []
    assert len(world.ready) == 1


def test_a_member_that_is_told_to_be_ready_twice_is_primed_once() -> None:
    world = priming(size=1)
    (member,) = world.channels
    world.observe(member, READY)
    assert world.primings == [member]


# --- failures


def test_a_primer_that_fails_is_called_again_after_a_backoff_that_grows() -> None:
    world = priming(size=1, backoff_min=1.0, backoff_max=30.0)
    (member,) = world.channels
    waits = []
    for _ in range(6):
        world.clock.advance(1)
        world.prime(member, "the primer raised ValueError")
        assert world.primings == []
        before = world.clock()
        wait(world)
        assert world.primings == [member]
        waits.append(world.clock() - before)
    nominal = [1.6**attempt for attempt in range(6)]
    assert all(0.8 * each <= took <= 1.2 * each for took, each in zip(waits, nominal, strict=True))
    failed = world.told(events.PrimerFailed)
    assert failed[1] == events.PrimerFailed(
        pool="world", member=0, endpoint="a", error="the primer raised ValueError", attempt=2
    )
    assert [event.attempt for event in failed] == [1, 2, 3, 4, 5, 6]
    assert list(world.channels) == [member]
    world.prime(member)
    assert world.ready == (member,)


def test_failures_are_counted_anew_after_a_success() -> None:
    world = priming(size=1)
    (member,) = world.channels
    for _ in range(2):
        world.prime(member, "x")
        wait(world)
        world.prime(member)
        world.observe(member, Connectivity.IDLE)
        world.observe(member, READY)
    assert [event.attempt for event in world.told(events.PrimerFailed)] == [1, 1]


def test_a_member_that_fails_leaves_the_others_alone() -> None:
    world = priming()
    first, second = world.channels
    world.prime(first)
    world.prime(second, "x")
    assert world.ready == (first,)
    wait(world)
    world.prime(second)
    assert world.ready == (first, second)


def test_a_primer_that_does_not_return_has_its_channel_replaced() -> None:
    world = priming(size=1)
    (member,) = world.channels
    world.clock.advance(TIMEOUT - 0.1)
    world.tell(Tick())
    assert list(world.channels) == [member]
    world.clock.advance(0.1)
    world.tell(Tick())
    assert world.closed == [member]
    assert [event.error for event in world.told(events.PrimerFailed)] == ["the primer did not return within 5 s"]
    (rebuilt,) = world.told(events.Rebuilt)
    assert (rebuilt.member, rebuilt.replacement) == (0, 1)
    (successor,) = world.channels
    world.observe(successor, READY)
    assert world.primings == [], "one that hangs must not make channels, and threads, as fast as it can"
    wait(world)
    world.prime(successor, "x")
    assert [event.attempt for event in world.told(events.PrimerFailed)] == [1, 2]


def test_an_rpc_on_a_channel_whose_primer_hangs_ends_in_peace() -> None:
    world = priming(size=1)
    (member,) = world.channels
    lease = world.lease(member)
    wait(world)
    assert world.phases() == ["draining", "connecting"]
    world.tell(Primed(member, None))
    assert world.ready == ()
    world.end(lease)
    assert world.closed == [member]


# --- those that are to join


def test_a_new_member_joins_once_it_is_primed() -> None:
    world = primed()
    new, ticket = join(world)
    assert not ticket.done()
    assert new not in world.ready
    world.prime(new, "x")
    wait(world)
    world.prime(new)
    assert ticket.result(0) == 3
    assert new in world.ready


def test_a_new_member_gives_up_after_three_failures() -> None:
    world = primed(connect_timeout=100.0)
    new, ticket = join(world)
    for _ in range(PRIMINGS - 1):
        world.prime(new, "the primer raised KeyError")
        assert not ticket.done()
        wait(world)
    world.prime(new, "the primer raised KeyError")
    with pytest.raises(ScalingError, match="last error: the primer raised KeyError"):
        ticket.result(0)
    assert world.closed == [new]
    assert world.machine.size == len(world.ready) == 2


def test_a_new_member_gives_up_when_its_primer_does_not_return() -> None:
    world = primed(connect_timeout=100.0)
    new, ticket = join(world)
    wait(world)
    with pytest.raises(ScalingError, match="the primer did not return within 5 s"):
        ticket.result(0)
    assert world.closed == [new]
    assert world.told(events.Rebuilt) == []


def test_a_new_member_gives_up_when_the_time_for_the_resize_is_over() -> None:
    world = primed(connect_timeout=3.0)
    new, ticket = join(world)
    world.clock.advance(3)
    world.tell(Tick())
    with pytest.raises(ScalingError, match="a was not primed within 3 s"):
        ticket.result(0)
    assert world.closed == [new]


# --- connections lost on the way


@pytest.mark.parametrize("state", [Connectivity.IDLE, Connectivity.CONNECTING, FAILED])
def test_a_connection_that_is_lost_while_it_is_primed_is_primed_again_when_it_is_back(state: Connectivity) -> None:
    world = priming(size=1)
    (member,) = world.channels
    connects = len(world.connects)
    world.observe(member, state)
    if state is FAILED:
        assert world.questions == [member]
    else:
        assert world.connects[connects:] == [member]
    world.prime(member, "the primer raised RpcError")
    assert world.told(events.PrimerFailed) == [], "it was about the connection that is lost"
    world.observe(member, READY)
    assert world.primings == [member]
    world.prime(member)
    assert world.ready == (member,)


@pytest.mark.parametrize("error", [None, "the primer raised RpcError"])
def test_a_primer_that_outlives_its_connection_is_waited_for_and_does_not_count(error: str | None) -> None:
    world = priming(size=1)
    (member,) = world.channels
    world.observe(member, Connectivity.IDLE)
    world.observe(member, READY)
    assert world.primings == [member], "there are never two at once"
    world.prime(member, error)
    assert world.ready == ()
    assert world.told(events.PrimerFailed) == []
    assert world.primings == [member], "called again, for the new connection"
    world.prime(member)
    assert world.ready == (member,)


def test_a_primer_that_outlives_its_connection_for_too_long_has_its_channel_replaced() -> None:
    world = priming(size=1)
    (member,) = world.channels
    world.clock.advance(TIMEOUT - 1)
    world.observe(member, Connectivity.IDLE)
    world.observe(member, READY)
    world.clock.advance(TIMEOUT - 1)
    world.tell(Tick())
    assert list(world.channels) == [member]
    world.clock.advance(1)
    world.tell(Tick())
    assert world.closed == [member]


def test_a_channel_closed_from_outside_while_it_is_primed_is_replaced() -> None:
    world = priming(size=1)
    (member,) = world.channels
    world.observe(member, Connectivity.SHUTDOWN)
    assert world.closed == [member]
    assert world.phases() == ["connecting"]


def test_a_lost_member_that_is_back_has_no_hole_to_fall_into() -> None:
    world = primed()
    first, second = world.ready
    for member in (first, second):
        world.observe(member, Connectivity.IDLE)
    assert world.fallback == (first, second)
    world.observe(first, READY)
    assert world.fallback == (first, second), "being primed, and used all the same"
    world.prime(first, "x")
    assert world.fallback == (first, second)
    wait(world)
    world.prime(first)
    assert world.ready == (first,)


# --- answers that come late


def test_an_explanation_that_comes_while_it_is_primed_does_not_disturb_the_primer() -> None:
    world = opened(size=1, primed=True, primer_timeout=TIMEOUT)
    (member,) = world.channels
    world.observe(member, FAILED)
    world.observe(member, READY)
    world.answer(member, "refused")
    world.prime(member)
    assert world.ready == (member,)


def test_a_pong_that_comes_while_it_is_primed_does_not_disturb_the_primer() -> None:
    world = primed(size=1, ping_interval=10.0)
    (member,) = world.ready
    while not world.pings:
        wait(world)
    world.observe(member, Connectivity.IDLE)
    world.observe(member, READY)
    world.pong(member, "no answer")
    world.prime(member)
    assert world.ready == (member,)


def test_answers_that_nobody_waits_for_are_ignored() -> None:
    world = primed(size=1)
    (member,) = world.ready
    told = len(world.events)
    for message in (Primed(member, None), Primed(member, "x"), Explained(member, "x")):
        world.tell(message)
    assert len(world.events) == told
    world.observe(member, Connectivity.SHUTDOWN)
    told = len(world.events)
    world.tell(Primed(member, "x"))
    assert len(world.events) == told


def test_an_answer_between_two_attempts_is_ignored() -> None:
    world = priming(size=1)
    (member,) = world.channels
    world.prime(member, "x")
    world.tell(Primed(member, None))
    assert world.ready == ()
    wait(world)
    world.prime(member)
    assert world.ready == (member,)


# --- the end


def test_a_close_does_not_wait_for_a_primer() -> None:
    world = priming()
    world.tell(Close())
    assert world.channels == {}
    assert world.machine.wake_at is None
    assert len(world.told(events.Closed)) == 1
