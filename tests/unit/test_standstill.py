"""A pool that stands still for a moment, and one that begins anew: what a fork needs of the core."""

from __future__ import annotations

import random
from concurrent.futures import Future
from typing import Any

import pytest

from grpcpool import events
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.lookout import Lookout
from grpcpool.core.member import Member
from grpcpool.core.messages import Close, Observed, Open, Republish, Resize
from grpcpool.core.pinned import Pinned
from grpcpool.core.standstill import Standstill
from grpcpool.errors import PoolClosed
from grpcpool.strategies import RoundRobin

from .world import Room


class Still:
    """A pool that is open, and its standstill."""

    def __init__(self) -> None:
        self.room = Room()
        self.room.tell(Open())
        self.members = self.room.connect_all()
        self.engine = self.room.engine
        self.lookout = Lookout(self.engine, self.room.clock, idle="idle", translate=Connectivity)
        for member in self.members:
            self.lookout.add(member, lambda connect: "ready")
        self.waited = 0
        # What happens while an RPC waits.
        self.meanwhile: Any = lambda: None
        self.standstill = Standstill(self.engine, self.lookout, self.wait)

    def wait(self) -> None:
        self.waited += 1
        self.meanwhile()


def test_picks_wait_and_then_go_on_as_before() -> None:
    still = Still()
    before = still.engine.generation
    pinned = Pinned(still.engine, still.members[0])
    still.standstill.begin()
    still.meanwhile = still.standstill.end
    # The last to see it: all is as it was when it has waited.
    assert still.engine.generation.pick() in still.members
    assert still.waited == 1
    assert still.engine.generation is before
    assert pinned.pick() is still.members[0]
    assert still.waited == 1
    still.standstill.begin()
    assert still.engine.generation.pick_connected() in still.members
    still.standstill.begin()
    assert pinned.pick() is still.members[0]
    assert still.waited == 3
    still.standstill.begin()
    assert still.room.acquire(pinned).member is still.members[0]
    assert still.waited == 4
    assert still.engine.generation is before


def test_whoever_need_not_wait_picks_as_before() -> None:
    still = Still()
    still.standstill.begin()
    # `wait` returns at once in the thread that forks, and then nothing has changed yet.
    assert {still.engine.generation.pick() for _ in range(4)} == set(still.members)
    assert still.engine.generation.pick_connected() in still.members
    assert still.engine.generation.members == tuple(still.members)


class Overtaken:
    """An engine on which something is published just after somebody has read what there is to pick."""

    def __init__(self, engine: Any) -> None:
        vars(self).update(engine=engine, following=[])

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.engine, name)
        if name == "generation" and self.following:
            self.following.pop()()
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.engine, name, value)


def test_what_is_published_in_the_moment_in_which_it_begins_is_not_lost() -> None:
    still = Still()
    gone = still.members[0]
    engine: Any = Overtaken(still.engine)
    standstill = Standstill(engine, still.lookout, still.wait)
    engine.following.append(lambda: still.room.tell(Observed(gone, Connectivity.TRANSIENT_FAILURE)))
    standstill.begin()
    assert standstill.hold()
    standstill.end()
    still.engine.pump()
    assert still.engine.generation.members == (still.members[1],)


def test_nothing_is_decided_or_seen_meanwhile_and_nothing_is_lost() -> None:
    still = Still()
    still.standstill.begin()
    assert still.standstill.hold()
    assert still.standstill.hold(), "as often as one likes"
    ticket: Future[int] = Future()
    still.room.tell(Resize(ticket, by=-1))
    assert still.lookout.look()[0], "to be made up for"
    assert not ticket.done()
    still.standstill.end()
    still.engine.pump()
    assert ticket.result(0) == 1
    assert still.lookout.look()[0]


def test_a_pool_that_is_not_open_stays_as_it_is() -> None:
    room = Room()
    before = room.engine.generation
    standstill = Standstill(room.engine, Lookout(room.engine, room.clock, idle="idle", translate=Connectivity), list)
    standstill.begin()
    assert standstill.hold()
    standstill.end()
    room.engine.pump()
    assert room.engine.generation is before


def test_what_others_are_at_is_waited_for() -> None:
    still = Still()
    other = object()
    still.standstill.begin()
    assert still.engine.hold(other)
    assert not still.standstill.hold()
    # One's own is not.
    assert still.standstill.hold(decisions=False)
    still.engine.release(other)
    assert still.standstill.hold()
    still.standstill.end()
    assert still.lookout.hold(other)
    assert not still.standstill.hold()
    still.lookout.release(other)
    assert still.standstill.hold()


def test_what_is_published_by_whoever_was_at_it_is_kept() -> None:
    still = Still()
    still.standstill.begin()
    still.room.tell(Republish())
    published = still.engine.generation
    assert still.standstill.hold()
    assert still.engine.generation is not published, "it holds again"
    still.standstill.end()
    assert still.engine.generation is published
    # And one that comes when it could not be held.
    still.standstill.begin()
    still.room.tell(Republish())
    newest = still.engine.generation
    still.standstill.end()
    assert still.engine.generation is newest is not published


# --- beginning anew


def test_a_pool_that_begins_anew_has_nothing_of_what_it_had() -> None:
    heard: list[events.Event] = []
    room = Room(listeners=(heard.append,))
    room.tell(Open())
    old = room.connect_all()
    lease = room.acquire()
    pinned = Pinned(room.engine, lease.member)
    machine = room.engine.machine
    room.engine.reset(random.Random(0))
    assert room.engine.machine is not machine
    assert machine.slots == {}
    assert all(member.retired for member in old)
    assert (room.engine.stats().calls, room.engine.stats().in_flight, room.engine.stats().members) == (0, 0, ())
    # What still comes from there is of no interest.
    lease.succeed(0.0)
    room.tell(Observed(old[0], Connectivity.READY))
    assert room.did("close") == []
    heard.clear()
    # The first use opens it again, and those that listened still do.
    assert room.acquire().member not in old
    assert any(isinstance(event, events.Opened) for event in heard)
    assert pinned.pick() in room.engine.machine.slots


def test_a_closed_pool_stays_closed() -> None:
    room = Room()
    room.tell(Open())
    room.connect_all()
    room.tell(Close())
    room.engine.reset(random.Random(0))
    with pytest.raises(PoolClosed):
        room.acquire()
    assert room.engine.machine.closed


def test_it_forgets_whom_it_looked_at() -> None:
    still = Still()
    assert still.lookout.hold(object())
    still.lookout.reset()
    assert len(still.lookout) == 0
    assert not still.lookout.look()[0]


def test_what_is_under_way_when_it_begins_anew_comes_to_nothing() -> None:
    """By a listener, in the middle of the effects of one message."""
    seen: list[str] = []

    def listener(event: events.Event) -> None:
        seen.append(type(event).__name__)
        if isinstance(event, events.Opened) and len(seen) == 1:
            room.engine.reset(random.Random(0))

    room = Room(listeners=(listener,))
    room.tell(Open())
    assert room.did("build") == []
    assert room.engine.machine.opened is None
    room.acquire()
    assert seen.count("Opened") == 2


def test_members_that_are_being_made_when_it_begins_anew_come_to_nothing() -> None:
    room = Room()
    build = room.build
    made: list[Member] = []

    def build_and_reset(member: Member) -> None:
        build(member)
        made.append(member)
        if len(made) == 1:
            room.engine.reset(random.Random(0))

    room.build = build_and_reset  # type: ignore[method-assign]
    room.tell(Open())
    assert len(made) == 1
    assert room.engine.machine.opened is None
    assert room.acquire().member is not made[0]
    assert len(made) == 3


def test_picks_that_are_being_made_when_it_begins_anew_come_to_nothing() -> None:
    class Strategy(RoundRobin):
        fails = True

        def build(self, members: Any, **given: Any) -> Any:
            if self.fails:
                raise RuntimeError
            return super().build(members, **given)

    strategy = Strategy()

    def listener(event: events.Event) -> None:
        if isinstance(event, events.StrategyFailed):
            strategy.fails = False
            room.engine.reset(random.Random(0))

    room = Room(listeners=(listener,), strategy=strategy)
    room.tell(Open())
    old = list(room.engine.machine.slots)
    room.tell(Observed(old[0], Connectivity.READY))
    assert room.engine.generation.members == ()
    assert room.acquire().member not in old


def test_a_listener_that_comes_before_the_first_use_leaves_the_opening_to_it() -> None:
    room = Room()
    heard: list[events.Event] = []
    room.engine.add_listener(heard.append)
    room.acquire()
    room.connect_all()
    room.acquire()
    assert [type(event) for event in heard if isinstance(event, events.Picked)] == [events.Picked] * 2
    room.engine.remove_listener(heard.append)
    heard.clear()
    room.acquire()
    assert heard == []


def test_a_pool_that_was_never_used_need_not_stand_still() -> None:
    room = Room()
    before = room.engine.generation
    Standstill(room.engine, Lookout(room.engine, room.clock, idle="idle", translate=Connectivity), lambda: None).begin()
    assert room.engine.generation is before
