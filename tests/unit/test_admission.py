"""The line: first come, first served; no slot is lost, and none is given twice."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from grpcpool.core.admission import Waiter
from grpcpool.core.lease import NOBODY, Lease
from grpcpool.core.member import Member
from grpcpool.core.messages import Close, Open, Resize

from .front import Front
from .world import Room

# --- who is served


def test_while_nobody_waits_nothing_is_said() -> None:
    front = Front(size=2, cap=3)
    leases = front.fill()
    assert front.in_flight() == [3, 3]
    for lease in leases:
        front.end(lease)
    assert (front.lines, front.calls, front.line.waiting, front.line.shut) == (0, 0, 0, False)
    assert [member.limit for member in front.members] == [3, 3]


def test_first_come_first_served() -> None:
    front = Front(size=3)
    leases = front.fill()
    waiters = [front.wait() for _ in range(10)]
    assert front.woken == []
    for _ in range(10):
        front.end(leases.pop(random.Random(0).randrange(len(leases))))
        leases.append(front.woken[-1].lease)
    assert front.woken == waiters
    assert front.in_flight() == [1, 1, 1]
    assert front.lines == 1


def test_a_lease_that_is_given_has_begun_on_a_member_when_its_waiter_is_woken() -> None:
    front = Front(size=1)
    (lease,) = front.fill()
    seen: list[tuple[Member, float]] = []
    waiter = Waiter(Lease(), lambda: seen.append((waiter.lease.member, waiter.lease.started)))
    assert front.line.enter(waiter)
    front.clock.now = 7.0
    front.end(lease)
    assert seen == [(front.members[0], 7.0)]
    assert (front.members[0].picks, waiter.done) == (2, True)


def test_nobody_overtakes() -> None:
    front = Front(size=2)
    leases = front.fill()
    waiter = front.wait()
    # From here on nobody gets in but by the line, not even in the moment when there is room.
    limits: list[float] = []
    front.members[0].on_room = lambda member: (limits.append(member.limit), front.line.room(member))
    assert front.take() is None
    front.end(leases[0])
    assert limits[0] == 0
    assert front.woken == [waiter]
    assert front.take() is None


def test_when_nobody_waits_any_more_everybody_may_come_again() -> None:
    front = Front(size=2)
    leases = front.fill()
    front.wait()
    front.end(leases[0])
    assert not front.line.shut
    assert [member.limit for member in front.members] == [1, 1]
    front.end(leases[1])
    assert front.take() is not None
    assert front.take() is None


def test_the_cap_is_never_exceeded() -> None:
    front = Front(size=2, cap=3)
    leases = front.fill()
    for _ in range(20):
        front.wait()
    chance = random.Random(1)
    for _ in range(20):
        front.end(leases.pop(chance.randrange(len(leases))))
        leases.append(front.woken[-1].lease)
        assert front.in_flight() == [3, 3]


def test_room_that_was_made_before_anybody_waited_is_found() -> None:
    # An RPC finds all full; before it is in line, another one ends, and says so to nobody.
    front = Front(size=2)
    leases = front.fill()
    front.end(leases[0])
    waiter = front.wait()
    assert front.woken == [waiter]
    assert not front.line.shut


def test_an_rpc_that_ends_after_its_waiter_came_gives_room_however_it_ends() -> None:
    ends: list[Callable[[Front, Lease], object]] = [
        lambda front, lease: lease.succeed(front.clock()),
        lambda front, lease: lease.fail(front.clock()),
        lambda front, lease: lease.release(front.clock()),
        lambda front, lease: lease.cancel(front.clock()),
        lambda front, lease: lease.member.withdraw(lease),
        lambda front, lease: lease.member.missed(lease),
    ]
    for end in ends:
        front = Front(size=1)
        (lease,) = front.fill()
        waiter = front.wait()
        end(front, lease)
        assert front.woken == [waiter]


# --- who leaves


def test_one_that_left_takes_no_slot() -> None:
    front = Front(size=1)
    (lease,) = front.fill()
    first, second, third = front.wait(), front.wait(), front.wait()
    assert front.line.leave(second)
    assert front.line.leave(first)
    assert front.line.waiting == 1
    front.end(lease)
    assert front.woken == [third]
    assert front.in_flight() == [1]
    assert (first.lease.member, second.lease.member) == (NOBODY, NOBODY)


def test_one_that_was_served_cannot_leave() -> None:
    front = Front(size=1)
    (lease,) = front.fill()
    waiter = front.wait()
    front.end(lease)
    assert not front.line.leave(waiter)
    assert front.in_flight() == [1]


def test_when_the_last_one_leaves_everybody_may_come_again() -> None:
    front = Front(size=1)
    (lease,) = front.fill()
    assert front.line.leave(front.wait())
    assert not front.line.shut
    front.end(lease)
    assert front.take() is not None


def test_one_that_leaves_in_the_moment_of_its_turn_makes_room_for_the_next() -> None:
    front = Front(size=1)
    (lease,) = front.fill()

    class Leaving(Lease):
        """Leaves when its token has just been put in: taking it is what asks for its hash."""

        def __hash__(self) -> int:
            first.leave()
            return id(self)

    first = Waiter(Leaving(), lambda: pytest.fail("it has left"))
    assert front.line.enter(first)
    second = front.wait()
    front.end(lease)
    assert front.woken == [second]
    assert front.in_flight() == [1]
    assert front.line.waiting == 0


def test_whoever_comes_while_others_are_being_served_is_served_where_there_is_room() -> None:
    # All but one member have room when the line is formed. The first one is given a slot, and in that moment another
    # one comes, who finds the line closed and so says nothing.
    front = Front(size=3)
    front.take()
    second = Waiter(Lease(), lambda: front.woken.append(second))
    first = Waiter(Lease(), lambda: (front.woken.append(first), front.line.enter(second)))
    assert front.line.enter(first)
    assert front.woken == [first, second]
    assert front.in_flight() == [1, 1, 1]
    assert not front.line.shut


# --- members come and go


def test_a_new_generation_serves_those_who_wait() -> None:
    front = Front(size=1, cap=2)
    front.fill()
    waiters = [front.wait() for _ in range(5)]
    new = front.member()
    front.adopt(*front.members, new)
    assert front.woken == waiters[:2]
    assert new.in_flight == 2
    assert new.limit == 0, "others still wait"
    front.adopt(*front.members, front.member(), front.member())
    assert front.woken == waiters
    assert [member.limit for member in front.members] == [2, 2, 2, 2]


def test_a_member_that_has_left_is_never_given() -> None:
    front = Front(size=2)
    leases = front.fill()
    waiter = front.wait()
    idle: list[Member] = []
    gone, stays = front.members
    gone.on_idle = idle.append
    front.adopt(stays)
    leases[0].member.rest()
    front.end(leases[0])
    assert front.woken == []
    assert idle == [gone]
    front.end(leases[1])
    assert front.woken == [waiter]
    assert waiter.lease.member is stays


def test_a_member_that_retires_before_it_is_known_here_is_never_given() -> None:
    front = Front(size=2)
    leases = front.fill()
    front.wait()
    front.members[0].retire()
    front.end(leases[0])
    front.line.room(front.members[0])
    assert front.woken == []


def test_a_member_that_is_away_is_not_given() -> None:
    front = Front(size=2)
    leases = front.fill()
    waiter = front.wait()
    away, stays = front.members
    front.line.adopt((stays,))
    front.end(leases[0])
    assert front.woken == []
    front.line.adopt((stays, away))
    assert front.woken == [waiter]
    assert waiter.lease.member is away


def test_a_member_that_is_away_has_room_when_nobody_waits_any_more() -> None:
    front = Front(size=2, cap=1)
    away, stays = front.members
    first, second = front.fill()
    waiter = front.wait()
    assert away.limit == stays.limit == 0
    front.line.adopt((stays,))
    front.end(first)
    assert not Lease().take(away, front.clock), "those who pick from what was published before overtake nobody"
    front.end(second)
    assert front.woken == [waiter]
    # By way of its own channel.
    assert Lease().take(away, front.clock)
    assert not Lease().take(away, front.clock)


def test_a_member_that_leaves_and_comes_back_is_as_all_others() -> None:
    front = Front(size=2)
    leases = front.fill()
    waiter = front.wait()
    away, stays = front.members
    front.line.adopt((stays,))
    front.end(leases[1])
    assert front.woken == [waiter]
    front.line.adopt((away, stays))
    assert away.limit == 1
    front.end(leases[0])
    assert front.take() is not None


# --- the end


def test_close_dismisses_all_who_wait() -> None:
    front = Front(size=1)
    (lease,) = front.fill()
    waiters = [front.wait() for _ in range(3)]
    assert front.line.leave(waiters[1])
    front.line.close()
    assert front.woken == [waiters[0], waiters[2]]
    assert all(waiter.lease.member is NOBODY and waiter.done for waiter in front.woken)
    assert front.line.waiting == 0
    front.end(lease)
    assert front.in_flight() == [0]


def test_whoever_comes_after_the_close_is_dismissed_at_once() -> None:
    front = Front(size=1)
    front.fill()
    front.line.close()
    waiter = front.wait()
    assert front.woken == [waiter]
    assert waiter.lease.member is NOBODY
    assert front.line.waiting == 0


def test_whoever_comes_during_the_close_is_dismissed_too() -> None:
    front = Front(size=1)
    front.fill()
    second = Waiter(Lease(), lambda: front.woken.append(second))
    first = Waiter(Lease(), lambda: (front.woken.append(first), front.line.enter(second)))
    assert front.line.enter(first)
    front.line.close()
    assert front.woken == [first, second]
    assert not front.line.shut


def test_a_pool_that_closes_dismisses_and_one_that_grows_serves() -> None:
    room = Room(policy={"size": 1, "cap": 1})
    room.tell(Open())
    room.connect_all()
    room.acquire()
    woken: list[int] = []

    def wait(number: int) -> Waiter:
        lease = Lease()
        assert not room.engine.attempt(lease)
        waiter = Waiter(lease, lambda: woken.append(number))
        assert room.engine.admission.enter(waiter)
        return waiter

    first, second = wait(1), wait(2)
    room.tell(Resize(None, to=2))
    room.connect_all()
    assert woken == [1]
    assert first.lease.member is room.engine.generation.members[1]
    room.tell(Close())
    assert woken == [1, 2]
    assert second.lease.member is NOBODY


# --- a full line, and the numbers


def test_a_full_line_lets_nobody_in() -> None:
    front = Front(size=1, most=2)
    (lease,) = front.fill()
    front.wait()
    front.wait()
    assert not front.line.enter(Waiter(Lease(), pytest.fail))
    assert (front.line.waiting, front.line.waited.value(), front.line.refused.value()) == (2, 2, 1)
    front.end(lease)
    front.wait()


def test_a_line_of_nobody_lets_nobody_in() -> None:
    front = Front(size=1, most=0)
    front.fill()
    assert not front.line.enter(Waiter(Lease(), pytest.fail))
    assert not front.line.shut


def test_the_time_that_was_waited_is_summed_up() -> None:
    front = Front(size=1)
    (lease,) = front.fill()
    front.wait()
    front.clock.now += 1
    leaves = front.wait()
    front.wait()
    front.clock.now += 2
    front.line.leave(leaves)
    assert front.line.seconds == 2
    front.end(lease)
    assert front.line.seconds == 2 + 3
    front.clock.now += 4
    front.line.close()
    assert front.line.seconds == 5 + 6
    assert front.line.waited.value() == 3
    assert front.line.refused.value() == 0


# --- elsewhere


def test_what_is_said_elsewhere_waits_until_it_is_served_here() -> None:
    front = Front(size=1)
    (lease,) = front.fill()
    front.here = False
    waiter = front.wait()
    front.end(lease)
    assert front.calls >= 1
    assert front.woken == []
    front.here = True
    front.line.serve()
    assert front.woken == [waiter]
    front.line.serve()
    assert front.woken == [waiter]


def test_one_that_leaves_elsewhere_takes_no_slot() -> None:
    front = Front(size=1)
    (lease,) = front.fill()
    first, second = front.wait(), front.wait()
    front.here = False
    assert front.line.leave(first)
    front.end(lease)
    front.here = True
    front.line.serve()
    assert front.woken == [second]
    assert front.in_flight() == [1]


# --- interrupts, as they come: the rest of them is in test_admission_steps


class Struck:
    """A waiter's wake, into which Ctrl-C strikes once."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1
        if self.times == 1:
            raise KeyboardInterrupt


def struck(front: Front) -> tuple[Waiter, Struck]:
    wake = Struck()
    waiter = Waiter(Lease(), wake)
    assert front.line.enter(waiter)
    return waiter, wake


def test_what_ctrl_c_leaves_undone_is_called_for_and_done() -> None:
    front = Front(size=1)
    (lease,) = front.fill()
    waiter, wake = struck(front)
    with pytest.raises(KeyboardInterrupt):
        front.end(lease)
    assert front.calls >= 1
    front.line.serve()
    assert wake.times == 2
    assert (waiter.done, waiter.lease.member.in_flight, front.line.waiting) == (True, 1, 0)


def test_so_it_is_when_it_strikes_whoever_serves_what_others_have_said() -> None:
    front = Front(size=1)
    (lease,) = front.fill()
    waiter, wake = struck(front)
    front.here = False
    front.end(lease)
    calls = front.calls
    with pytest.raises(KeyboardInterrupt):
        front.line.serve()
    assert front.calls == calls + 1
    front.line.serve()
    assert (wake.times, waiter.lease.member.in_flight) == (2, 1)


def test_one_that_has_left_is_not_dismissed() -> None:
    front = Front(size=1)
    front.fill()
    front.here = False
    waiter = front.wait()
    assert front.line.leave(waiter)
    waiter.dismiss()
    assert front.woken == []
    assert not waiter.done


class Crowded(set[object]):
    """RPCs in flight; whoever comes, another one comes at the same moment."""

    def add(self, token: object) -> None:
        super().add(token)
        super().add("another")


def test_two_that_come_at_the_same_moment_do_not_both_get_the_last_slot() -> None:
    member = Member(0, "a", limit=1)
    member.leases = Crowded()
    assert not member.admit("one")
    assert member.leases == {"another"}


def test_a_retired_member_is_idle_when_its_last_rpc_has_ended_and_not_before() -> None:
    member = Member(0, "a")
    told: list[Member] = []
    member.on_idle = told.append
    first, second = member.begin(0.0, True), member.begin(0.0, True)
    assert not member.retire()
    assert member.answered(first, 1.0, 1.0)
    assert told == []
    assert member.answered(second, 1.0, 1.0)
    assert told == [member]
