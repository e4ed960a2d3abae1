"""What a pool decides about connections: those that fail, break and come back, and those that only seem to be there."""

from __future__ import annotations

import pytest

from grpcpool import events
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.member import Member
from grpcpool.core.members import FORGOTTEN, MOST_EAGER, STALE
from grpcpool.core.messages import Abort, Close, Open, Resize, Tick, Wanted

from .world import FAILED, READY, World, connected, opened

# --- losing a connection


@pytest.mark.parametrize("state", [Connectivity.IDLE, Connectivity.CONNECTING, FAILED])
def test_a_member_that_loses_its_connection_leaves_the_picks_at_once(state: Connectivity) -> None:
    world = connected(size=2)
    lost, kept = world.ready
    world.clock.advance(7)
    world.observe(lost, state)
    assert world.ready == (kept,)
    (down,) = world.told(events.ConnectionDown)
    (gone,) = world.told(events.Disconnected)
    assert down.member == gone.member == lost.id
    assert gone.uptime == 7
    world.observe(lost, READY)
    assert set(world.ready) == {lost, kept}


def test_a_failed_attempt_is_explained_and_the_next_one_scheduled() -> None:
    world = opened(size=1, backoff_min=1.0, backoff_max=30.0)
    (member,) = world.channels
    world.clock.advance(0.5)
    world.fail(member, "connection refused")
    (failed,) = world.told(events.ConnectFailed)
    assert (failed.duration, failed.error) == (0.5, "connection refused")
    (scheduled,) = world.told(events.ReconnectScheduled)
    assert (scheduled.attempt, scheduled.reason) == (1, "connection refused")
    assert 0.8 <= scheduled.delay <= 1.2
    assert world.machine.wake_at == world.clock() + scheduled.delay
    assert world.machine.members.last_error == "connection refused"


def test_a_member_that_is_down_can_still_be_tried_where_there_is_no_better_one() -> None:
    world = opened(size=2)
    first, second = world.channels
    world.fail(first)
    assert world.fallback == (second,)
    world.fail(second)
    assert world.fallback == (first, second)


def test_after_enough_failures_in_a_row_the_channel_is_rebuilt_and_the_waits_go_on_growing() -> None:
    world = opened(size=1, max_reconnect_attempts=3, backoff_min=1.0, backoff_max=1000.0)
    (member,) = world.channels
    world.fail(member)
    for _ in range(2):
        world.attempt(member)
        world.answer(member, "refused")
    (rebuilt,) = world.told(events.Rebuilt)
    assert (rebuilt.member, rebuilt.attempts) == (member.id, 3)
    assert world.closed == [member]
    (successor,) = world.channels
    assert successor.id == rebuilt.replacement
    world.fail(successor)
    last = world.told(events.ReconnectScheduled)[-1]
    assert last.attempt == 4
    assert last.delay > 1.6**3 * 0.79
    world.observe(successor, READY)
    world.observe(successor, FAILED)
    world.answer(successor, "refused")
    assert world.told(events.ReconnectScheduled)[-1].attempt == 1


def test_a_rebuilt_member_with_running_rpcs_stays_until_they_end() -> None:
    world = opened(size=1, max_reconnect_attempts=1)
    (member,) = world.channels
    lease = world.lease(member)
    world.fail(member)
    assert world.closed == []
    assert world.phases() == ["draining", "connecting"]
    world.end(lease)
    assert world.closed == [member]


def test_an_attempt_is_judged_when_it_has_surely_been_made() -> None:
    world = opened(size=1, backoff_min=1.0)
    (member,) = world.channels
    world.fail(member)
    failed = world.clock()
    connects = len(world.connects)
    world.clock.now = world.machine.wake_at
    world.tell(Tick())
    assert len(world.connects) == connects + 1
    assert world.questions == []
    world.clock.now = world.machine.wake_at
    world.tell(Tick())
    assert world.questions == [member]
    # At the latest grpc's own attempt comes 1.2 s after the one that failed.
    assert world.clock() >= failed + 1.2


def test_a_member_that_turns_out_to_answer_is_looked_at_again() -> None:
    world = opened(size=1)
    (member,) = world.channels
    world.observe(member, FAILED)
    world.answer(member, None)
    assert world.told(events.ConnectFailed) == []
    world.attempt(member)
    assert world.questions == [member]


def test_a_question_that_is_still_open_is_not_asked_twice() -> None:
    world = opened(size=1)
    (member,) = world.channels
    world.observe(member, FAILED)
    world.observe(member, READY)
    world.observe(member, FAILED)
    assert world.questions == [member]
    world.answer(member, "refused")
    assert len(world.told(events.ConnectFailed)) == 1


def test_an_answer_that_comes_after_the_connection_changes_nothing() -> None:
    world = opened(size=1)
    (member,) = world.channels
    world.observe(member, FAILED)
    world.observe(member, READY)
    world.answer(member, "refused")
    assert world.ready == (member,)
    assert world.told(events.ConnectFailed) == []


def test_a_channel_that_cannot_be_made_is_tried_again_and_never_offered() -> None:
    world = World(size=1, max_reconnect_attempts=2)
    world.unbuildable.add("a")
    world.tell(Open())
    assert world.channels == {}
    assert world.fallback == ()
    for attempt in range(2, 5):
        world.clock.now = world.machine.wake_at
        world.tell(Tick())
        assert world.told(events.ReconnectScheduled)[-1].attempt == attempt
    world.unbuildable.clear()
    world.clock.now = world.machine.wake_at
    world.tell(Tick())
    assert list(world.channels) == list(world.fallback)
    world.connect_all()
    assert len(world.ready) == 1


def test_a_channel_closed_from_outside_is_replaced() -> None:
    world = connected(size=1)
    (member,) = world.ready
    world.observe(member, Connectivity.SHUTDOWN)
    assert world.told(events.ConnectionDown)[0].reason == "its channel was closed from outside the pool"
    assert world.closed == [member]
    assert len(world.channels) == 1


# --- demand


def all_down(*targets: str, size: int = 2, **policy: object) -> World:
    world = opened(*targets, size=size, backoff_min=1.0, **policy)
    for member in list(world.channels):
        world.fail(member)
        world.clock.advance(0.1)
    return world


def test_an_rpc_that_finds_nobody_gets_a_fresh_channel_that_goes_on_trying() -> None:
    world = all_down()
    first, second = world.channels
    assert world.hopeless
    world.tell(Wanted())
    (fresh,) = world.fallback
    assert not world.hopeless
    assert world.closed == [first], "the one that has waited longest"
    assert fresh.eager
    world.tell(Wanted())
    assert len(world.ever) == 3, "there is hope now"
    world.fail(fresh)
    for _ in range(3):
        world.clock.advance(1.0)
        world.tell(Wanted())
    assert len(world.ever) == 3, "it tries again by itself"
    assert set(world.channels) == {second, fresh}


def test_every_endpoint_is_tried_for_it_may_be_the_first_to_be_back() -> None:
    world = all_down("a", "b", "c", size=6)
    world.tell(Wanted())
    assert sorted(member.endpoint for member in world.fallback) == ["a", "b", "c"]
    assert all(member.eager for member in world.fallback)
    assert len(world.ever) == 9


def test_one_that_is_not_back_after_a_while_gets_a_fresh_channel() -> None:
    world = all_down(size=1)
    world.tell(Wanted())
    (fresh,) = world.fallback
    began = world.clock()
    while fresh in world.channels:
        if world.fallback == (fresh,):
            world.fail(fresh)
        world.clock.advance(0.5)
        world.tell(Wanted())
    assert world.clock() - began == STALE
    (fresher,) = world.fallback
    assert fresher.eager


def test_of_many_endpoints_a_few_go_on_trying_and_the_others_have_their_turns() -> None:
    targets = [f"t{number}" for number in range(MOST_EAGER + 3)]
    world = all_down(*targets, size=len(targets))
    world.tell(Wanted())
    assert [member.endpoint for member in world.fallback] == targets[:MOST_EAGER]
    for turn in range(STALE - 1):
        for member in world.fallback:
            world.fail(member)
        world.tell(Wanted())
        assert world.hopeless, "not so soon again"
        world.clock.advance(1.0)
        world.tell(Wanted())
        (fresh,) = world.fallback
        assert fresh.endpoint == targets[MOST_EAGER + turn % 3]
        assert not fresh.eager


def test_when_no_rpc_waits_any_more_the_attempts_become_seldom_again() -> None:
    world = all_down(max_reconnect_attempts=100)
    world.tell(Wanted())
    (fresh,) = world.fallback
    world.fail(fresh)
    started = world.clock()
    while fresh in world.channels:
        assert world.machine.wake_at is not None
        world.clock.now = world.machine.wake_at
        world.tell(Tick())
        for member in list(world.questions):
            world.answer(member, "refused")
    assert FORGOTTEN <= world.clock() - started < 30
    assert not any(member.eager for member in world.channels)


def test_whoever_comes_back_brings_the_others_of_its_endpoint_along() -> None:
    world = all_down()
    first, second = world.channels
    world.observe(first, READY)
    assert world.closed == [second]
    (fresh,) = set(world.channels) - {first}
    world.observe(fresh, READY)
    assert set(world.ready) == {first, fresh}


def test_an_rpc_does_not_wait_for_those_that_join() -> None:
    world = all_down()
    world.ask(Resize, by=1)
    count = len(world.ever)
    world.tell(Wanted())
    (fresh,) = world.ever[count:]
    assert world.fallback == (fresh,)
    assert not world.hopeless


@pytest.mark.parametrize("end", [Close, Abort])
def test_a_closed_pool_makes_no_channel_for_anybody(end: type) -> None:
    world = all_down()
    world.tell(Close())
    world.tell(end())
    world.tell(Wanted())
    assert len(world.ever) == 2


# --- pings


def test_an_idle_member_is_pinged_and_a_used_one_is_not() -> None:
    world = connected(size=2, ping_interval=10.0)
    idle, used = world.ready

    def pass_time() -> None:
        world.clock.advance(10)
        world.end(world.lease(used))
        world.tell(Tick())

    pass_time()
    assert world.pings == [], "how idle they are is not known yet"
    pass_time()
    assert world.pings == [idle]
    world.pong(idle)
    assert world.told(events.Pinged)[0].result == "alive"
    pass_time()
    pass_time()
    assert world.pings == [idle]


def test_a_running_rpc_is_no_idleness() -> None:
    world = connected(size=1, ping_interval=10.0)
    lease = world.lease(world.ready[0])
    for _ in range(3):
        world.clock.advance(10)
        world.tell(Tick())
    assert world.pings == []
    world.end(lease)


def pinged(world: World) -> Member:
    for _ in range(2):
        world.clock.advance(10)
        world.tell(Tick())
    return world.pings[0]


def test_a_failed_ping_replaces_the_connection() -> None:
    world = connected(size=1, ping_interval=10.0)
    member = pinged(world)
    world.pong(member, "no answer within 5 s")
    assert world.ready == ()
    assert world.closed == [member]
    (event,) = world.told(events.Pinged)
    assert (event.result, event.detail) == ("dead", "no answer within 5 s")
    assert "no answer within 5 s" in world.told(events.ConnectionDown)[0].reason
    world.connect_all()
    assert len(world.ready) == 1


def test_a_ping_that_is_overtaken_by_the_loss_of_the_connection_is_no_news() -> None:
    world = connected(size=1, ping_interval=10.0)
    member = pinged(world)
    world.observe(member, Connectivity.IDLE)
    world.pong(member, "unavailable")
    assert world.told(events.Pinged) == []


def test_a_member_that_failed_while_it_was_pinged_is_not_forgotten() -> None:
    world = connected(size=1, ping_interval=10.0)
    member = pinged(world)
    world.observe(member, FAILED)
    world.pong(member, "unavailable")
    assert world.questions == [member]


def test_a_member_still_being_asked_about_is_not_pinged() -> None:
    world = opened(size=1, ping_interval=10.0)
    (member,) = world.channels
    world.observe(member, FAILED)
    world.observe(member, READY)
    for _ in range(3):
        world.clock.advance(10)
        world.tell(Tick())
    assert world.pings == []
