"""The line: first come, first served; no slot is lost, and none is given twice."""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

import pytest

from grpcpool.core import admission
from grpcpool.core.admission import Admission, Waiter
from grpcpool.core.lease import NOBODY, Lease
from grpcpool.core.member import Member
from grpcpool.core.messages import Close, Open, Resize
from grpcpool.testing import FakeClock

from .helpers import in_threads
from .world import Room


class Front:
    """Members with a line in front of them, and what comes and goes there."""

    def __init__(self, size: int = 2, cap: int = 1, most: int = 100) -> None:
        self.clock = FakeClock()
        self.here = True
        self.calls = 0
        self.lines = 0
        self.line = Admission(cap, most, clock=self.clock, here=lambda: self.here, call=self.called, on_line=self.lined)
        self.members: tuple[Member, ...] = ()
        self.ids = itertools.count()
        self.woken: list[Waiter] = []
        self.adopt(*(self.member() for _ in range(size)))

    def called(self) -> None:
        self.calls += 1

    def lined(self) -> None:
        self.lines += 1

    def member(self) -> Member:
        member = Member(next(self.ids), "a", limit=self.line.cap)
        member.on_room = self.line.room
        return member

    def adopt(self, *members: Member) -> None:
        """Make these the members; those that are not among them any more retire."""
        gone = set(self.members) - set(members)
        self.members = members
        self.line.adopt(members)
        for member in gone:
            member.retire()

    def take(self) -> Lease | None:
        """Take a lease as an RPC does that comes; None if it has to wait."""
        lease = Lease()
        return lease if any(lease.take(member, self.clock) for member in self.members) else None

    def fill(self) -> list[Lease]:
        """Take all there is."""
        return list(iter(self.take, None))

    def wait(self) -> Waiter:
        """Have an RPC wait that found all members full."""
        waiter = Waiter(Lease(), lambda: self.woken.append(waiter))
        assert self.line.enter(waiter)
        return waiter

    def end(self, lease: Lease) -> None:
        assert lease.succeed(self.clock())

    def in_flight(self) -> list[int]:
        return [member.in_flight for member in self.members]


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
    front.members[0].retired = True
    front.end(leases[0])
    front.line.room(front.members[0])
    assert front.woken == []


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


# --- at every single step


class Moment:
    """Something that happens once, at the n-th line that is run of the line's own code."""

    def __init__(self, at: int, happens: Callable[[], object]) -> None:
        self.left = at
        self.happens = happens

    def trace(self, frame: FrameType, what: str, argument: object) -> Any:
        return self.line if frame.f_code.co_filename == admission.__file__ else None

    def line(self, frame: FrameType, what: str, argument: object) -> Any:
        if what == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                self.happens()
        return self.line

    @contextmanager
    def awaited(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            yield
        finally:
            sys.settrace(before)


def strike() -> NoReturn:
    raise KeyboardInterrupt


class Scene:
    """A line in which some wait, and what may happen to it."""

    def __init__(self, waiting: int) -> None:
        self.front = Front(size=2, cap=2)
        self.leases = self.front.fill()
        self.waiters = [self.front.wait() for _ in range(waiting)]
        self.grown = (*self.front.members, self.front.member(), self.front.member())
        self.comes = Waiter(Lease(), lambda: self.front.woken.append(self.comes))
        self.last = iter(self.leases)

    def room(self) -> None:
        self.front.end(next(self.last))

    def adopt(self) -> None:
        self.front.adopt(*self.grown)

    def leave(self) -> None:
        for waiter in self.waiters[:1]:
            self.front.line.leave(waiter)

    def all_leave(self) -> None:
        for waiter in self.waiters:
            self.front.line.leave(waiter)

    def come(self) -> None:
        self.waiters.append(self.comes)
        if not self.front.take():
            self.front.line.enter(self.comes)

    def close(self) -> None:
        self.front.line.close()

    def check(self) -> None:
        front = self.front
        at_rest(front)
        assert len(front.woken) == len(set(front.woken))
        for waiter in self.waiters:
            assert waiter.done == (waiter in front.woken)
            assert (waiter.lease.member is not NOBODY) <= waiter.done
        given = {waiter.lease for waiter in self.waiters if waiter.lease.member is not NOBODY}
        held = set().union(*(member.leases for member in front.members))
        assert {waiter.lease for waiter in self.waiters} & held == given
        # Everything ends, and all slots are there again.
        self.all_leave()
        for member in front.members:
            for lease in list(member.leases):
                member.dropped(lease, 0.0, None)
        at_rest(front)
        assert len(front.fill()) == 2 * len(front.members)


HAPPENS = ["room", "adopt", "leave", "all_leave", "come", "close"]
# Without anybody in line, some of it does not concern the line at all.
CASES = [
    *((what, waiting) for what in HAPPENS for waiting in (1, 3)),
    *((what, 0) for what in ("adopt", "come", "close")),
]


@pytest.mark.parametrize("other", HAPPENS)
@pytest.mark.parametrize(("what", "waiting"), CASES)
def test_whatever_another_thread_does_at_whatever_step_no_slot_is_lost(what: str, waiting: int, other: str) -> None:
    # While this thread is at it, all that another one can do is to leave its news. So it may as well be this one.
    for at in itertools.count(1):
        scene = Scene(waiting)
        moment = Moment(at, getattr(scene, other))
        with moment.awaited():
            getattr(scene, what)()
        if moment.left > 0:
            break
        scene.check()
    assert at > 5


@pytest.mark.parametrize(("what", "waiting"), CASES)
def test_an_interrupt_at_whatever_step_loses_no_slot(what: str, waiting: int) -> None:
    for at in itertools.count(1):
        scene = Scene(waiting)
        line = scene.front.line
        moment = Moment(at, strike)
        with moment.awaited(), suppress(KeyboardInterrupt):
            getattr(scene, what)()
        if moment.left > 0:
            break
        # It may have struck before anything was said. Whoever did this says it again, or leaves.
        match what:
            case "room":
                line.room(scene.leases[0].member)
            case "come":
                line.leave(scene.comes)
            case "adopt":
                line.adopt(scene.grown)
            case _:
                getattr(scene, what)()
        # Whoever was asked for help does this.
        line.serve()
        scene.front.woken = list(dict.fromkeys(scene.front.woken))
        scene.check()
    assert at > 5


def at_rest(front: Front) -> None:
    """What must hold whenever nothing is going on."""
    line = front.line
    assert all(count <= line.cap for count in front.in_flight())
    assert line.shut == bool(line.waiting)
    assert all(member.limit == (0 if line.shut else line.cap) for member in front.members)
    if line.waiting:
        assert all(count == line.cap for count in front.in_flight()), "somebody waits, although there is room"


# --- threads


@pytest.mark.usefixtures("hasty")
def test_sixteen_threads_lose_no_slot() -> None:
    front = Front(size=3, cap=2, most=10**6)
    exceeded: list[int] = []
    lefts = iter(range(10_000))
    left, given = [], []

    def work() -> None:
        chance = random.Random(threading.get_ident())
        held: list[Lease] = []
        for _ in lefts:
            lock = threading.Lock()
            lock.acquire()
            waiter = Waiter(Lease(), lock.release)
            lease = front.take()
            if lease is None:
                assert front.line.enter(waiter)
                if chance.random() < 0.3 and held:
                    held.pop().succeed(0.0)
                if front.line.leave(waiter):
                    left.append(waiter)
                else:
                    lock.acquire()
                    lease = waiter.lease
                    given.append(waiter)
            if lease is not None:
                held.append(lease)
            if any(member.in_flight > 16 + 2 for member in front.members):
                exceeded.append(1)
            while held and chance.random() < 0.4:
                held.pop().succeed(0.0)
        for lease in held:
            lease.succeed(0.0)

    in_threads(16, work)
    assert left
    assert given
    assert exceeded == []
    at_rest(front)
    assert front.in_flight() == [0, 0, 0]
    assert len(front.fill()) == 6


@pytest.mark.usefixtures("hasty")
def test_sixteen_threads_that_wait_their_turn_are_never_more_than_the_cap_and_all_are_served() -> None:
    front = Front(size=2, cap=3, most=10**6)
    running = [0]
    most = [0]
    guard = threading.Lock()

    def work() -> None:
        for _ in range(300):
            lease = front.take()
            if lease is None:
                lock = threading.Lock()
                lock.acquire()
                waiter = Waiter(Lease(), lock.release)
                assert front.line.enter(waiter)
                assert lock.acquire(timeout=20), "forgotten in line"
                lease = waiter.lease
            with guard:
                running[0] += 1
                most[0] = max(most[0], running[0])
            with guard:
                running[0] -= 1
            lease.succeed(0.0)

    in_threads(16, work)
    assert most[0] <= 6
    at_rest(front)
    assert len(front.fill()) == 6
