"""The engine, and members that are not to have their full share: ejected ones, those that are tried, or warm up."""

from __future__ import annotations

from typing import Any

from grpcpool.core.admission import Waiter
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.lease import Lease
from grpcpool.core.member import Member
from grpcpool.core.messages import Observed, Open, Pinged, Served, Tick
from grpcpool.strategies import Adaptive

from .helpers import Keyed
from .world import Room


def ailing(**options: Any) -> Room:
    policy = {"size": 3, "ping_interval": None, "max_consecutive_failures": 2, **options.pop("policy", {})}
    room = Room(policy=policy, **options)
    room.tell(Open())
    room.connect_all()
    return room


def fail(room: Room, member: Member) -> None:
    """Two RPCs in a row fail there, while others are answered elsewhere."""
    for other in room.engine.generation.members:
        if other is not member:
            Lease.on(other, room.clock()).succeed(room.clock())
    for _ in range(2):
        Lease.on(member, room.clock()).fail(room.clock())
    room.engine.pump()


def half_open(room: Room, member: Member) -> None:
    room.tell(Pinged(member, 0.01, None))
    room.clock.advance(6)
    room.tell(Tick())


def test_failures_in_a_row_wake_the_room_and_eject_the_member() -> None:
    room = ailing()
    bad, *others = room.engine.generation.members
    Lease.on(others[0], 0.0).succeed(0.0)
    room.noted.clear()
    Lease.on(bad, 0.0).fail(0.0)
    assert room.did("wake") == []
    Lease.on(bad, 0.0).fail(0.0)
    assert room.did("wake") == [None]
    room.engine.pump()
    assert room.engine.generation.members == tuple(others)
    assert room.engine.generation.eligible == tuple(others)
    assert room.did("ping") == [bad]


def test_failures_on_a_member_that_is_known_to_be_down_wake_nobody() -> None:
    room = ailing()
    bad = room.engine.generation.members[0]
    room.tell(Observed(bad, Connectivity.TRANSIENT_FAILURE))
    room.noted.clear()
    for _ in range(10):
        Lease.on(bad, room.clock()).fail(room.clock())
    assert room.did("wake") == []


def test_a_member_on_probation_is_picked_once_and_then_the_pick_is_bare_again() -> None:
    room = ailing(policy={"slow_start": None})
    bad = room.engine.generation.members[0]
    fail(room, bad)
    bare = room.engine.generation.pick
    half_open(room, bad)
    assert room.engine.generation.pick.__name__ == "pick_once"
    # What get_channel hands out is kept, perhaps for long.
    assert bad not in {room.engine.generation.pick_connected() for _ in range(6)}
    room.noted.clear()
    lease = room.acquire()
    assert lease.member is bad
    assert room.did("wake") == [None]
    assert bad not in {room.engine.generation.pick() for _ in range(6)}
    room.engine.pump()
    assert type(room.engine.generation.pick) is type(bare)
    assert getattr(room.engine.generation.pick, "__name__", "") != "pick_once"
    lease.succeed(room.clock())
    room.clock.advance(0.2)
    room.tell(Tick())
    assert bad in room.engine.generation.members


def test_a_member_that_comes_back_warms_up() -> None:
    room = ailing(policy={"slow_start": 5.0})
    bad = room.engine.generation.members[0]
    fail(room, bad)
    half_open(room, bad)
    room.acquire().succeed(room.clock())
    room.engine.pump()
    room.clock.advance(0.2)
    room.tell(Tick())
    assert bad in room.engine.generation.members
    picks = [room.engine.generation.pick() for _ in range(300)]
    assert 0 < picks.count(bad) < 30
    room.clock.advance(2.5)
    picks = [room.engine.generation.pick() for _ in range(300)]
    assert 30 < picks.count(bad) < 80
    room.clock.advance(3)
    room.tell(Tick())
    picks = [room.engine.generation.pick() for _ in range(300)]
    assert picks.count(bad) == 100


def test_who_serves_a_key_serves_it_from_the_start() -> None:
    room = ailing(strategy=Keyed(), policy={"slow_start": 5.0})
    bad = room.engine.generation.members[0]
    fail(room, bad)
    half_open(room, bad)
    room.acquire().succeed(room.clock())
    room.engine.pump()
    room.clock.advance(0.2)
    room.tell(Tick())
    assert {room.engine.generation.pick() for _ in range(50)} == {bad}


def test_a_full_pool_finds_no_room_on_an_ejected_member_but_tries_it_when_its_time_has_come() -> None:
    room = ailing(policy={"cap": 1})
    bad, *_ = room.engine.generation.members
    fail(room, bad)
    kept = [room.acquire(), room.acquire()]
    assert not room.engine.attempt(Lease())
    assert room.engine.spare() is None
    waiter = Waiter(Lease(), lambda: None)
    assert room.engine.admission.enter(waiter)
    assert not waiter.done
    half_open(room, bad)
    assert not waiter.done
    probe = room.acquire()
    assert probe.member is bad
    room.engine.pump()
    probe.succeed(room.clock())
    room.clock.advance(0.2)
    room.tell(Tick())
    assert waiter.done
    assert waiter.lease.member is bad
    assert all(lease.member is not bad for lease in kept)


def test_a_member_that_left_while_others_waited_in_line_has_room_for_the_one_rpc_that_it_is_tried_with() -> None:
    room = ailing(policy={"cap": 1})
    bad = room.engine.generation.members[0]
    held = {lease.member: lease for lease in (room.acquire(), room.acquire(), room.acquire())}
    waiter = Waiter(Lease(), lambda: None)
    assert room.engine.admission.enter(waiter)
    assert room.engine.admission.shut
    fail(room, bad)
    assert bad not in room.engine.generation.members
    held[bad].succeed(room.clock())
    assert not waiter.done, "it has left, so what ends there makes no room"
    half_open(room, bad)
    assert room.acquire().member is bad


def test_below_half_an_ejected_member_has_room_again() -> None:
    room = ailing(policy={"cap": 1})
    bad, lost, _ = room.engine.generation.members
    fail(room, bad)
    room.tell(Observed(lost, Connectivity.TRANSIENT_FAILURE))
    assert {room.acquire().member for _ in range(2)} == {bad, room.engine.generation.members[-1]}


def test_a_meter_is_put_on_a_member_before_it_is_tried() -> None:
    room = ailing(strategy=Adaptive())
    bad = room.engine.generation.members[0]
    fail(room, bad)
    room.tell(Observed(bad, Connectivity.SHUTDOWN))
    successor = next(iter(reversed(room.engine.machine.slots)))
    room.tell(Observed(successor, Connectivity.READY))
    lease = room.acquire()
    assert lease.member is successor
    assert successor.meter is not None


def test_the_room_is_asked_to_watch_every_member_that_connects() -> None:
    room = Room(policy={"watched": True})
    room.tell(Open())
    room.connect_all()
    first, second = room.did("watch")
    assert [first, second] == list(room.engine.machine.slots)
    # Until their servers have said something, they are picked as those are that connect.
    assert {room.engine.generation.pick() for _ in range(4)} == {first, second}
    room.tell(Served(second, True))
    assert room.engine.generation.members == (second,)
