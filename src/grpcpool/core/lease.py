"""A lease: one RPC's claim on one member, given back exactly once."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Protocol

from ..strategies.base import Clock
from .member import Member

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["NOBODY", "Lease"]


# Where leases are that have not begun. Nothing ever runs there.
NOBODY = Member(-1, "")


class Token(Hashable, Protocol):
    """What stands for an RPC that runs."""

    member: Member
    started: float


class Lease:
    """One RPC in flight on one member.

    Taken inside the pick and given back when the RPC ends, however it ends. Several threads may report the end of the
    same RPC; the first one counts, and is told so by True. It is made before it is taken, so that whoever is
    interrupted on the way knows what to give back.

    Arguments:
        timed: it is a unary RPC, so that how long it takes says something about the member.

    Attributes:
        member: where the RPC runs; `NOBODY` before it does.
        started: when it began, on the pool's clock.
        timed: as given.
    """

    __slots__ = ("member", "started", "timed")

    def __init__(self, timed: bool = True) -> None:
        self.member = NOBODY
        self.started = 0.0
        self.timed = timed

    @classmethod
    def on(cls, member: Member, now: float, timed: bool = True) -> Self:
        """Return a lease on the member that has begun, whatever the member's limit."""
        lease = cls(timed)
        lease.begin(member, now)
        return lease

    def begin(self, member: Member, now: float) -> None:
        """Take the lease, whatever the member's limit."""
        self.member = member
        self.started = now
        member.begin(now, self.timed, self)

    def take(self, member: Member, clock: Clock) -> bool:
        """Take the lease unless the member is retired or full; True if it was taken."""
        self.member = member
        if member.admit(self):
            self.begin(member, clock())
            return True
        self.member = NOBODY
        return False

    def cancel(self, now: float) -> None:
        """Give the lease back, if it was taken and is not given back yet: its RPC does not come about."""
        if self in self.member.leases:
            self.release(now)

    def succeed(self, now: float) -> bool:
        """Give the lease back after an RPC that ended well."""
        return self.member.answered(self, now, self._latency(now))

    def fail(self, now: float, *, blame: bool = True, late: bool = False) -> bool:
        """Give the lease back after an RPC that ended with a status other than OK. For the rest see `Member.failed`."""
        return self.member.failed(self, now, self._latency(now), blame=blame, late=late)

    def release(self, now: float) -> bool:
        """Give the lease back after an RPC that its caller cancelled or abandoned."""
        return self.member.dropped(self, now, self._latency(now))

    def hand_over(self, heir: Hashable) -> None:
        """Let `heir` be the token of this RPC from now on. Nobody may report the end of the RPC meanwhile."""
        self.member.leases.add(heir)
        # For a moment it was two; whoever saw that and found the member full is told that it was not.
        self.member.withdraw(self)

    def take_over(self, token: Token) -> None:
        """Stand for the RPC of this token from now on. Nobody may report the end of the RPC meanwhile."""
        self.member, self.started = token.member, token.started
        self.member.leases.add(self)
        self.member.withdraw(token)

    def _latency(self, now: float) -> float | None:
        return now - self.started if self.timed else None
