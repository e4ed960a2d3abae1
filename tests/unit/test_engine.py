"""The engine: what becomes of RPCs, and of what the machine decides, with a room that only takes notes."""

from __future__ import annotations

import gc
from concurrent.futures import Future
from typing import Any, NoReturn

import pytest

from grpcpool import events
from grpcpool.core.admission import Waiter
from grpcpool.core.affinity import KeyedSource
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.lease import Lease
from grpcpool.core.member import Member
from grpcpool.core.messages import Close, Explained, Observed, Open, Pinged, Resize, Tick
from grpcpool.core.pinned import Pinned
from grpcpool.core.slot import Phase
from grpcpool.errors import PoolClosed, ScalingError

from .world import Room


def test_the_first_rpc_opens_the_pool() -> None:
    room = Room()
    lease = room.acquire()
    assert lease.member in room.engine.machine.slots
    assert room.did("connect") == list(room.engine.machine.slots)
    with pytest.raises(LookupError, match="not connected"):
        room.engine.generation.pick_connected()


def test_the_first_look_for_a_connected_member_opens_the_pool_too() -> None:
    room = Room()
    with pytest.raises(LookupError, match="not connected"):
        room.engine.generation.pick_connected()
    assert len(room.engine.machine.slots) == 2


def test_a_channel_that_cannot_be_made_is_no_secret_s_way_out() -> None:
    heard: list[events.Event] = []
    room = Room(listeners=(heard.append,))
    room.broken = True
    with pytest.raises(LookupError, match="no channel"):
        room.acquire()
    assert "its channel could not be made: ValueError" in room.engine.describe()
    assert not [event for event in heard if "secret" in repr(event)]


def test_an_rpc_that_a_listener_makes_while_the_pool_opens_is_refused() -> None:
    caught: list[BaseException] = []

    def eager(event: events.Event) -> None:
        if isinstance(event, events.Opened):
            with pytest.raises(LookupError, match="no channel") as error:
                room.acquire()
            caught.append(error.value)

    room = Room(listeners=(eager,))
    room.acquire()
    assert len(caught) == 1


def test_a_lease_on_a_member_that_has_left_goes_to_another() -> None:
    room = Room()
    room.tell(Open())
    left, stays = room.connect_all()
    stale = room.engine.generation
    ticket: Future[int] = Future()
    room.tell(Resize(ticket, by=-1))
    left, stays = (left, stays) if left.retired else (stays, left)
    assert ticket.result(0) == 1
    assert room.acquire(Pinned(room.engine, left)).member is stays
    assert room.acquire(Pinned(room.engine, stays)).member is stays
    assert Pinned(room.engine, left).generation.eligible == (stays,)
    # A thread that read the generation just before the change, and picks from it just after.
    current = room.engine.generation

    class Late:
        members = current.members

        @staticmethod
        def pick() -> Member:
            room.engine.generation = current
            return left

    room.engine.generation = Late()  # type: ignore[assignment]
    assert room.acquire().member is stays
    assert left.in_flight == 0
    assert stale.members != current.members


def test_picks_of_one_members_channel_stay_there_until_it_leaves() -> None:
    room = Room()
    room.tell(Open())
    members = room.connect_all()
    sources = {member: Pinned(room.engine, member) for member in members}
    for member, source in sources.items():
        assert [source.generation.pick() for _ in range(3)] == [member] * 3
    room.tell(Resize(None, by=-1))
    (stays,) = room.engine.generation.members
    assert {source.generation.pick() for source in sources.values()} == {stays}


def test_a_retired_member_is_closed_after_its_last_rpc_and_not_from_where_that_ends() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    leases = [room.acquire(), room.acquire()]
    room.tell(Resize(None, by=-1))
    (leaving,) = [lease for lease in leases if lease.member.retired]
    leaving.succeed(0.0)
    assert room.did("wake") == [None]
    assert room.did("close") == []
    room.engine.pump()
    assert room.did("close") == [leaving.member]


def test_the_room_is_asked_for_explanations_and_pings() -> None:
    room = Room()
    room.tell(Open())
    first, second = room.connect_all()
    room.tell(Observed(first, Connectivity.TRANSIENT_FAILURE))
    assert room.did("explain") == [first]
    room.tell(Explained(first, "refused"))
    for _ in range(2):
        room.clock.advance(5)
        room.tell(Tick())
    assert room.did("ping") == [second]
    room.tell(Pinged(second, 0.1, None))


def test_an_rpc_that_finds_all_members_down_asks_for_a_fresh_channel_and_goes_there() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    for member in list(room.engine.machine.slots):
        room.tell(Observed(member, Connectivity.TRANSIENT_FAILURE))
        room.tell(Explained(member, "refused"))
    before = set(room.engine.machine.slots)
    lease = room.acquire()
    assert lease.member not in before
    assert room.did("want") == [None]
    # All the RPCs of that moment go there as well; and when it has failed, they fail with the others for a while.
    assert room.acquire().member is lease.member
    room.tell(Observed(lease.member, Connectivity.TRANSIENT_FAILURE))
    assert room.acquire().member in room.engine.machine.slots
    assert len([slot for slot in room.engine.machine.slots.values() if slot.phase is not Phase.DRAINING]) == 2


def test_a_closed_engine_refuses_rpcs() -> None:
    room = Room()
    room.tell(Open())
    room.tell(Close())
    for pick in (room.acquire, room.engine.generation.pick_connected):
        with pytest.raises(PoolClosed):
            pick()
    assert room.did("report")[-1] is Connectivity.SHUTDOWN


def test_tickets_are_settled_unless_their_waiter_has_gone() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    gone: Future[int] = Future()
    gone.cancel()
    room.tell(Resize(gone, to=1))
    refused: Future[int] = Future()
    room.tell(Resize(refused, to=0))
    with pytest.raises(ScalingError):
        refused.result(0)
    assert room.engine.status().expected_size == 1


def test_a_question_that_cannot_be_asked_is_answered_all_the_same() -> None:
    room = Room()
    room.tell(Open())
    first, second = room.connect_all()

    def fail(member: Member) -> NoReturn:
        raise RuntimeError("can't start new thread")

    room.explain = room.ping = fail  # type: ignore[method-assign]
    room.tell(Observed(first, Connectivity.TRANSIENT_FAILURE))
    slot = room.engine.machine.slots[first]
    assert (slot.busy, slot.error) == (False, "could not be asked: RuntimeError")
    for _ in range(2):
        room.clock.advance(5)
        room.tell(Tick())
    slot = room.engine.machine.slots[second]
    assert not slot.busy
    assert slot.due is not None


def test_an_interrupt_while_channels_are_made_leaves_a_pool_that_goes_on() -> None:
    room = Room()
    build = room.build

    def interrupt(member: Member) -> None:
        if member.id:
            raise KeyboardInterrupt
        build(member)

    room.build = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        room.tell(Open())
    room.engine.pump()
    assert [slot.phase for slot in room.engine.machine.slots.values()] == [Phase.CONNECTING, Phase.DOWN]


def test_an_interrupted_publishing_is_made_up_for() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    stale = room.engine.generation
    room.tell(Resize(None, by=-1))
    room.engine.generation = stale
    assert not any(room.acquire().member.retired for _ in range(4))
    assert room.engine.generation is not stale


def test_an_interrupted_publishing_of_a_close_does_not_keep_rpcs_going_round() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    before = room.engine.generation
    room.tell(Close())
    room.engine.generation = before
    with pytest.raises(PoolClosed):
        room.engine.attempt(Lease())


def test_listeners_come_and_go_and_picks_are_told_to_them_from_then_on() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    heard: list[events.Event] = []
    room.acquire().release(0.0)
    room.engine.add_listener(heard.append)
    room.acquire().release(0.0)
    room.engine.generation.pick_connected()
    room.engine.remove_listener(heard.append)
    room.acquire().release(0.0)
    assert [type(event) for event in heard] == [events.Picked, events.Picked]


def test_what_fails_in_the_background_is_counted_and_told() -> None:
    heard: list[events.Event] = []
    room = Room(listeners=(heard.append,))

    def fail(member: Member) -> NoReturn:
        raise RuntimeError("connect")

    room.connect = fail  # type: ignore[method-assign]
    room.tell(Open())
    room.engine.maintenance_failed(RuntimeError("elsewhere"))
    assert room.engine.stats().maintenance_errors == 3
    assert [e.error for e in heard if isinstance(e, events.MaintenanceFailed)][-1] == "RuntimeError"
    assert len(room.did("complain")) == 3


def test_a_listener_that_raises_is_complained_of_once() -> None:
    def bad(event: events.Event) -> NoReturn:
        raise RuntimeError("listener")

    room = Room(listeners=(bad,))
    room.tell(Open())
    room.connect_all()
    assert room.engine.stats().listener_errors == 3
    assert len(room.did("complain")) == 1


def test_statistics_outlive_members() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    for failed in (False, True):
        lease = room.acquire()
        if failed:
            lease.fail(lease.started + 0.5)
        else:
            lease.succeed(lease.started + 0.5)
    running = room.acquire()
    room.clock.advance(2)
    stats = room.engine.stats()
    assert (stats.calls, stats.failures, stats.in_flight, stats.size, stats.connects) == (3, 1, 1, 2, 2)
    assert {member.age for member in stats.members} == {2.0}
    assert sorted(member.latency for member in stats.members if member.latency is not None) == [0.5]
    running.succeed(2.0)
    room.tell(Resize(None, to=1))
    stats = room.engine.stats()
    assert (stats.calls, stats.failures, stats.in_flight, stats.disconnects) == (3, 1, 0, 1)
    assert len(stats.members) == 1
    assert room.engine.status().status == "healthy"


def test_garbage_collection_may_strike_while_the_engine_works() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    lease = room.acquire()
    room.tell(Resize(None, by=-1))
    room.tell(Resize(None, by=1))

    class Call:
        """Dies in the middle of something, as a cycle does in a collection."""

        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            lease.release(0.0)

    Call()
    gc.collect()
    room.engine.pump()
    assert lease.member.in_flight == 0


def test_a_primer_that_cannot_be_run_counts_as_one_that_failed() -> None:
    room = Room(policy={"primed": True, "size": 1})

    def fail(member: Member) -> None:
        raise RuntimeError

    room.prime = fail  # type: ignore[method-assign]
    room.tell(Open())
    room.connect_all()
    (slot,) = room.engine.machine.slots.values()
    assert (slot.phase, slot.primings) == (Phase.PRIMING, 1)
    assert slot.error == "the primer could not be run: RuntimeError"


def test_a_member_with_room_can_be_asked_for_through_one_members_channel() -> None:
    room = Room(policy={"cap": 1})
    room.tell(Open())
    first, second = room.connect_all()
    held = room.acquire(Pinned(room.engine, first))
    assert held.member is first
    assert Pinned(room.engine, first).spare() is second
    room.acquire()
    assert Pinned(room.engine, first).spare() is None


@pytest.mark.parametrize("through", ["the pool", "one member", "a key"])
def test_a_member_that_was_not_tried_can_be_asked_for(through: str) -> None:
    room = Room(policy={"cap": 1})
    room.tell(Open())
    first, second = room.connect_all()
    sources = {"the pool": room.engine, "one member": Pinned(room.engine, first), "a key": KeyedSource(room.engine)}
    source: Any = sources[through]
    lease = Lease()
    assert source.elsewhere(lease, [first])
    assert lease.member is second
    assert not source.elsewhere(Lease(), [first], only=True)
    # Rather one that was tried than none.
    last = Lease()
    assert source.elsewhere(last, [first])
    assert last.member is first


def test_nobody_who_moves_overtakes_those_who_wait() -> None:
    room = Room(policy={"cap": 1})
    room.tell(Open())
    first, second = room.connect_all()
    held = [room.acquire(), room.acquire()]
    assert room.engine.admission.enter(Waiter(Lease(), lambda: None))
    assert room.engine.admission.enter(Waiter(Lease(), lambda: None))
    assert not room.engine.elsewhere(Lease(), [first], only=True)
    assert not room.engine.elsewhere(Lease(), [first])
    for lease in held:
        lease.succeed(room.clock())
    assert first.in_flight == second.in_flight == 1
