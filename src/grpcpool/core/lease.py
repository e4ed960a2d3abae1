"""A lease: one RPC's claim on one member, given back exactly once."""

from __future__ import annotations

from collections.abc import Hashable

from .member import Member

__all__ = ["Lease"]


class Lease:
    """One RPC in flight on one member.

    Taken inside the pick and given back when the RPC ends, however it ends. Several threads may report the end of the
    same RPC; the first one counts, and is told so by True.

    Arguments:
        timed: it is a unary RPC, so that how long it takes says something about the member.

    Attributes:
        member: where the RPC runs.
        started: when it began, on the pool's clock.
        timed: as given.
    """

    __slots__ = ("member", "started", "timed")

    def __init__(self, member: Member, started: float, timed: bool = True) -> None:
        self.member = member
        self.started = started
        self.timed = timed
        member.begin(started, timed, self)

    def succeed(self, now: float) -> bool:
        """Give the lease back after an RPC that ended well."""
        return self.member.answered(self, now, self._latency(now))

    def fail(self, now: float, *, blame: bool = True) -> bool:
        """Give the lease back after an RPC that ended with a status other than OK. `blame`: see `Member.failed`."""
        return self.member.failed(self, now, self._latency(now), blame=blame)

    def release(self, now: float) -> bool:
        """Give the lease back after an RPC that its caller cancelled or abandoned."""
        return self.member.dropped(self, now, self._latency(now))

    def hand_over(self, heir: Hashable) -> None:
        """Let `heir` be the token of this RPC from now on. Nobody may report the end of the RPC meanwhile."""
        leases = self.member.leases
        leases.add(heir)
        leases.remove(self)

    def _latency(self, now: float) -> float | None:
        return now - self.started if self.timed else None
