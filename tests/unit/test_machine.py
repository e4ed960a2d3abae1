"""What a pool decides, situation by situation."""

from __future__ import annotations

import itertools

import pytest

from grpcpool import events
from grpcpool.core.connectivity import Connectivity, aggregate
from grpcpool.core.member import Member
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
    Wanted,
)
from grpcpool.core.slot import Phase
from grpcpool.errors import PoolClosed, ScalingError

from .world import World

READY = Connectivity.READY
FAILED = Connectivity.TRANSIENT_FAILURE


def opened(*targets: str, **policy: object) -> World:
    world = World(*targets, **policy)
    world.tell(Open())
    return world


def connected(*targets: str, **policy: object) -> World:
    world = opened(*targets, **policy)
    world.connect_all()
    return world


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


def all_down(**policy: object) -> World:
    world = opened(size=2, backoff_min=1.0, **policy)
    for member in list(world.channels):
        world.fail(member)
        world.clock.advance(0.1)
    return world


def test_an_rpc_that_finds_nobody_gets_a_fresh_channel_at_most_once_in_a_while() -> None:
    world = all_down()
    first, second = world.channels
    assert world.hopeless
    world.tell(Wanted())
    (fresh,) = world.fallback
    assert not world.hopeless
    assert world.closed == [first], "the one that has waited longest"
    world.tell(Wanted())
    assert len(world.ever) == 3, "there is hope now"
    world.fail(fresh)
    world.tell(Wanted())
    assert len(world.ever) == 3, "not so soon again"
    world.clock.advance(1.0)
    world.tell(Wanted())
    assert len(world.ever) == 4
    assert world.closed == [first, second]


def test_whoever_comes_back_brings_the_others_of_its_endpoint_along() -> None:
    world = all_down()
    first, second = world.channels
    world.observe(first, READY)
    assert world.closed == [second]
    (fresh,) = set(world.channels) - {first}
    world.observe(fresh, READY)
    assert set(world.ready) == {first, fresh}


@pytest.mark.parametrize("end", [Close, Abort])
def test_a_closed_pool_makes_no_channel_for_anybody(end: type) -> None:
    world = all_down()
    world.tell(Close())
    world.tell(end())
    world.tell(Wanted())
    assert len(world.ever) == 2


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


# --- resizing


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
