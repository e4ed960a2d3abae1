"""What the lookout tells the engine, whoever else looks at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from grpcpool import events
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.lookout import NUDGE, Lookout
from grpcpool.core.member import Member
from grpcpool.core.messages import Explained, Open

from .world import Room


def test_the_lookout_knows_whether_anybody_needs_the_members() -> None:
    room = Room()
    room.tell(Open())
    lookout = Lookout(room.engine, room.clock, idle="idle", translate=Connectivity)
    for member in room.connect_all():
        lookout.add(member, lambda connect: "ready")
    assert not lookout.in_use()
    lease = room.acquire()
    assert lookout.in_use()
    lease.release(0.0)
    assert not lookout.in_use()


def test_the_lookout_passes_on_what_is_new_and_nothing_else() -> None:
    room = Room()
    room.tell(Open())
    first, second = room.engine.machine.slots
    states = {first: "ready", second: "idle"}
    asked: list[Member] = []

    def check(member: Member) -> Any:
        def look(connect: bool) -> str:
            if connect:
                asked.append(member)
            return states[member]

        return look

    lookout = Lookout(room.engine, room.clock, idle="idle", translate=Connectivity)
    lookout.add(first, check(first))
    lookout.add(second, check(second))
    assert len(lookout) == 2
    assert lookout.look() == (True, None)
    room.engine.pump()
    assert room.engine.generation.members == (first,)
    nudges = len(room.did("connect"))
    for passed, more in ((NUDGE / 2, 0), (NUDGE, 1)):
        room.clock.advance(passed)
        assert lookout.look()[0] is False, "idle again is no news"
        room.engine.pump()
        assert len(room.did("connect")) == nudges + more, "but in time it wants a nudge"
    lookout.connect(second)
    assert asked == [second]
    assert lookout.glance(first) is False
    states[first] = "transient failure"
    assert lookout.glance(first) is True
    room.engine.pump()
    assert room.engine.generation.members == ()
    room.tell(Explained(first, "refused"))
    room.clock.advance(60)
    _, appointment = lookout.look()
    assert appointment is not None
    assert appointment < 0
    room.engine.pump()
    assert room.engine.machine.slots[first].trying, "the appointment was kept"
    first.retire()
    states[first] = "ready"
    assert lookout.glance(first) is False
    assert lookout.look()[0] is False
    lookout.remove(first)
    lookout.remove(first)
    assert lookout.glance(first) is False


class Street:
    """An open pool of two members, a lookout over it, and channels whose states are at the test's will.

    Attributes:
        states: of each channel.
        on_check: called when a member's channel is asked for its state, after that was read: so much can happen
            before a thread comes to use what it has read.
        heard: events.
    """

    def __init__(self) -> None:
        self.heard: list[events.Event] = []
        self.room = Room(listeners=(self.heard.append,))
        self.room.tell(Open())
        self.first, self.second = self.room.engine.machine.slots
        self.states: dict[Member, Any] = {self.first: "ready", self.second: "ready"}
        self.on_check: dict[Member, Callable[[], object]] = {}
        self.lookout = Lookout(self.room.engine, self.room.clock, idle="idle", translate=Connectivity)
        for member in self.states:
            self.lookout.add(member, lambda connect, member=member: self.check(member))

    def check(self, member: Member) -> Any:
        state = self.states[member]
        self.on_check.pop(member, lambda: None)()
        if isinstance(state, Exception):
            raise state
        return state

    def look(self) -> tuple[bool, tuple[Member, ...]]:
        """Look, and return whether that was news and who is picked from now on."""
        news, _ = self.lookout.look()
        self.room.engine.pump()
        return news, self.room.engine.generation.members


@pytest.fixture
def street() -> Street:
    return Street()


def test_what_a_glance_has_found_is_not_overruled_by_a_look_that_read_before_it(street: Street) -> None:
    def lose_the_first() -> None:
        street.states[street.first] = "idle"
        # As an RPC's thread does, when it gets the interpreter while the look is at the second member.
        assert not street.lookout.glance(street.first), "the look under way takes care of it"
        street.room.engine.pump()

    street.on_check[street.second] = lose_the_first
    assert street.look() == (True, (street.second,))
    assert street.look() == (False, (street.second,))
    street.states[street.first] = "ready"
    assert street.look() == (True, (street.first, street.second))


def test_a_member_that_is_back_is_not_lost_to_a_look_that_read_before_it(street: Street) -> None:
    street.states[street.first] = "connecting"
    assert street.look() == (True, (street.second,))

    def connect_the_first() -> None:
        street.states[street.first] = "ready"
        street.lookout.glance(street.first)

    street.on_check[street.second] = connect_the_first
    assert street.look() == (True, (street.first, street.second))
    assert [event for event in street.heard if isinstance(event, events.ConnectionDown)] == []


def test_a_look_that_comes_upon_a_glance_is_made_up_for_soon(street: Street) -> None:
    assert street.look() == (True, (street.first, street.second))
    street.states[street.first] = street.states[street.second] = "idle"
    street.on_check[street.first] = lambda: looks.append(street.lookout.look()[0])
    looks: list[bool] = []
    assert street.lookout.glance(street.first)
    assert looks == [True], "which makes the monitor look again in a moment"
    assert street.look() == (True, ())


def test_a_change_that_only_a_glance_has_seen_is_seen_to_change_back(street: Street) -> None:
    assert street.look() == (True, (street.first, street.second))
    street.states[street.first] = "idle"
    assert street.lookout.glance(street.first)
    street.room.engine.pump()
    street.states[street.first] = "ready"
    assert street.look() == (True, (street.first, street.second)), "though it looks as it did at the last look"


def test_a_channel_that_the_pool_closes_during_a_look_disturbs_nobody(street: Street) -> None:
    def close() -> None:
        street.second.retire()
        street.lookout.remove(street.second)
        street.states[street.second] = ValueError("Channel closed!")

    street.on_check[street.first] = close
    assert street.look() == (True, (street.first,))
    assert len(street.lookout) == 1
    assert street.look() == (False, (street.first,))


def test_a_channel_that_was_closed_from_outside_is_replaced(street: Street) -> None:
    assert street.look() == (True, (street.first, street.second))
    street.states[street.second] = ValueError("Channel closed!")
    assert street.look() == (True, (street.first,))
    assert [event.reason for event in street.heard if isinstance(event, events.ConnectionDown)] == [
        "its channel was closed from outside the pool"
    ]


def test_a_check_that_raises_gives_the_right_to_look_back(street: Street) -> None:
    street.states[street.second] = OSError("too bad")
    with pytest.raises(OSError, match="too bad"):
        street.lookout.look()
    street.states[street.second] = "ready"
    assert street.look() == (True, (street.first, street.second))
