"""A member: one channel's identity, its load, and its record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .counters import Tally

if TYPE_CHECKING:
    from .lease import Lease

__all__ = ["Member"]


class Member:
    """One channel of the pool, as strategies and statistics see it.

    A member lives from the moment its channel is made until that channel is closed, and is never used again: what
    replaces it is a new member. Its counters outlive the generations it takes part in.

    Attributes:
        id: unique within the pool.
        endpoint: the gRPC target that the member connects to.
        weight: the endpoint's relative share of the traffic.
        born: when it was made, on the pool's clock.
        leases: the RPCs in flight, one lease each. ``len(member.leases)`` is their number without a call; a set,
            because adding to it and removing from it are single steps for the interpreter, and because removing what
            is no longer there says so: a lease can be given back only once.
        retired: set, for good, once the member must take no new RPC.
        channel, bound: belong to the room that made the member: its grpc channel, and the counted view of it that
            `get_channel` hands out. The core never looks.
    """

    __slots__ = (
        "__weakref__",
        "_failures",
        "_picks",
        "born",
        "bound",
        "channel",
        "endpoint",
        "id",
        "latency",
        "leases",
        "retired",
        "weight",
    )

    def __init__(self, id: int, endpoint: str, *, weight: float = 1, born: float = 0.0) -> None:
        self.id = id
        self.endpoint = endpoint
        self.weight = weight
        self.born = born
        self.leases: set[Lease] = set()
        self.retired = False
        self.latency: float | None = None
        self.channel: Any = None
        self.bound: Any = None
        self._picks = Tally()
        self._failures = Tally()

    @property
    def in_flight(self) -> int:
        """RPCs that run on this member now."""
        return len(self.leases)

    @property
    def picks(self) -> int:
        """RPCs that were started on this member."""
        return self._picks.value()

    @property
    def failures(self) -> int:
        """RPCs that ended with a status other than OK, cancellation by the caller not counted."""
        return self._failures.value()

    def retire(self) -> bool:
        """Take no new RPC from now on, for good; True if none is running.

        See `Lease.release` for why the order of the two steps matters.
        """
        self.retired = True
        return not self.leases

    def __repr__(self) -> str:
        return f"<Member {self.id} {self.endpoint} in_flight={len(self.leases)}{' retired' if self.retired else ''}>"
