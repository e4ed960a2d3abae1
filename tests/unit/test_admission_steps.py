"""The line, with other threads, garbage collections and Ctrl-C at every step of its work."""

from __future__ import annotations

import itertools
import random
import threading
from contextlib import suppress
from time import sleep

import pytest

from grpcpool.core import admission
from grpcpool.core.admission import Waiter
from grpcpool.core.lease import NOBODY, Lease

from .front import Front, at_rest
from .helpers import in_threads
from .moment import Moment, strike

# --- at every single step


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
        moment = Moment(at, getattr(scene, other), admission.__file__)
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
        moment = Moment(at, strike, admission.__file__)
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


# --- threads


@pytest.mark.usefixtures("hasty")
def test_sixteen_threads_lose_no_slot() -> None:
    front = Front(size=3, cap=2, most=10**6)
    lefts = iter(range(10_000))
    left: list[Waiter] = []
    given: list[Waiter] = []

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
                # Who waits for as long as it takes holds nothing that others may be waiting for.
                patient = chance.random() < 0.1
                while held and (patient or chance.random() < 0.3):
                    held.pop().succeed(0.0)
                if chance.random() < 0.2:
                    # The interpreter need not change threads here by itself.
                    sleep(1e-4)
                if not patient and front.line.leave(waiter):
                    left.append(waiter)
                else:
                    lock.acquire()
                    lease = waiter.lease
                    given.append(waiter)
            if lease is not None:
                held.append(lease)
            while held and chance.random() < 0.4:
                held.pop().succeed(0.0)
        for lease in held:
            lease.succeed(0.0)

    in_threads(16, work)
    assert left
    assert given
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
