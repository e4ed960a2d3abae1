"""A lease: one RPC's claim on one member, given back exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .member import Member

__all__ = ["Lease"]

# Weight of a new sample in a member's moving average of latency. 1/8 is what TCP uses to smooth its round trip time
# (RFC 6298, section 2): about the last sixteen calls matter.
SMOOTHING = 1 / 8


class Lease:
    """One RPC in flight on one member.

    Taken inside the pick and given back when the RPC ends, however it ends: an answer, an error, a cancellation, a
    deadline, or a call object that is dropped and garbage collected. Several of those may report the end of the same
    RPC, from different threads; the first one counts.

    Attributes:
        member: where the RPC runs.
        started: when it began, on the pool's clock.
        watch: whatever must stay alive as long as the lease (a weak reference with its callback).
    """

    __slots__ = ("_on_idle", "member", "started", "watch")

    def __init__(self, member: Member, started: float, on_idle: Callable[[Member], object]) -> None:
        self.member = member
        self.started = started
        self.watch: Any = None
        self._on_idle = on_idle
        member.leases.add(self)
        member._picks.add()

    def release(self) -> bool:
        """Give the lease back; True for the one caller that really did.

        Safe from any thread and from within a garbage collection: it takes no lock. If the member is retired and this
        was its last RPC, `on_idle` is told.
        """
        member = self.member
        try:
            member.leases.remove(self)
        except KeyError:
            return False
        self.watch = None
        # The other half of this handshake is in Member.retire: it sets `retired` first and looks at the leases
        # second. Here the lease goes first and `retired` is looked at second. So at least one of both sees the other.
        if member.retired and not member.leases:
            self._on_idle(member)
        return True

    def succeed(self, latency: float | None = None) -> None:
        """Give the lease back after an RPC that ended well.

        Arguments:
            latency: how long it took in seconds; None where that says nothing about the member (a stream).
        """
        # Two threads that do this at once may lose one of the two samples. An average can bear that.
        if self.release() and latency is not None:
            average = self.member.latency
            self.member.latency = latency if average is None else average + (latency - average) * SMOOTHING

    def fail(self) -> None:
        """Give the lease back after an RPC that ended with a status other than OK, not cancelled by its caller."""
        if self.release():
            self.member._failures.add()
