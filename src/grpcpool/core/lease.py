"""A lease: one RPC's claim on one member, given back exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .member import Member

__all__ = ["Lease"]


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

    def end(self, *, failed: bool, latency: float | None = None) -> bool:
        """Give the lease back with the RPC's outcome; True for the one caller that really did.

        Arguments:
            failed: the RPC ended with a status other than OK and not because its caller cancelled it.
            latency: how long it took in seconds; None where that says nothing about the member (a stream).
        """
        if not self.release():
            return False
        if failed:
            self.member._failures.add()
        if latency is not None:
            self.member.observe(latency)
        return True
