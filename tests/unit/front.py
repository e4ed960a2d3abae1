"""Members with a line in front of them, as an engine has them, and nothing else."""

from __future__ import annotations

import itertools

from grpcpool.core.admission import Admission, Waiter
from grpcpool.core.lease import Lease
from grpcpool.core.member import Member
from grpcpool.testing import FakeClock


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


def at_rest(front: Front) -> None:
    """What must hold whenever nothing is going on."""
    line = front.line
    assert all(count <= line.cap for count in front.in_flight())
    assert line.shut == bool(line.waiting)
    assert all(member.limit == (0 if line.shut else line.cap) for member in front.members)
    if line.waiting:
        assert all(count == line.cap for count in front.in_flight()), "somebody waits, although there is room"
