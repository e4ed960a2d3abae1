"""A member: one channel's identity, its load, and its record."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from .counters import Tally
from .norm import Norm

if TYPE_CHECKING:
    from ..strategies.base import Meter

__all__ = ["SMOOTHING", "UNLIMITED", "Member"]

# Weight of a new sample in a member's moving average of latency. 1/8 is what TCP uses to smooth its round trip time
# (RFC 6298, section 2): about the last sixteen calls matter.
SMOOTHING = 1 / 8

# In the place of a limit: more RPCs than fit into a process. Small enough for the interpreter's quick way of comparing
# integers, which a float that stands for infinity would not get.
UNLIMITED = (1 << 30) - 1


class Member:
    """One channel of the pool, as strategies and statistics see it.

    A member lives from the moment its channel is made until that channel is closed, and is never used again: what
    replaces it is a new member. Its counters outlive the generations it takes part in.

    An RPC begins with `begin` and ends with one of `answered`, `failed` and `dropped`. Several threads may report the
    end of the same RPC, even a garbage collection in the middle of one of them; the first one counts. None of these
    takes a lock.

    Attributes:
        id: unique within the pool.
        endpoint: the gRPC target that the member connects to.
        weight: the endpoint's relative share of the traffic.
        born: when it was made, on the pool's clock.
        leases: the RPCs in flight, a token each. ``len(member.leases)`` is their number without a call; a set, because
            adding to it and removing from it are single steps for the interpreter, and because removing what is no
            longer there says so: an RPC can end only once.
        count: counts one more pick, and returns a number that no other pick of this member has.
        latency: moving average of unary RPCs that were answered, in seconds; None before the first.
        meter: what the strategy notes about the member, for the strategy itself to read; None if it notes nothing.
        observer: who is told of RPCs: the meter, or what stands between it and the pool; None if nobody.
        retired: set, for good, once the member must take no new RPC.
        limit: RPCs that may be in flight at once; 0 for as long as others wait in line, for one that comes now must not
            overtake them; -1 once it is retired. Compared by whoever takes a lease, after it has put its token in. Set
            by `allow` and `retire`, which are for one thread at a time.
        on_idle: told when the last RPC of a retired member has ended. Called in the middle of anything.
        on_room: told when an RPC has ended while others wait in line. Called in the middle of anything.
        channel, bound: belong to the room that made the member: its grpc channel, and the counted view of it that
            `get_channel` hands out. The core never looks.
    """

    __slots__ = (
        "__weakref__",
        "_failures",
        "_misses",
        "_picks",
        "born",
        "bound",
        "channel",
        "count",
        "endpoint",
        "id",
        "latency",
        "leases",
        "limit",
        "meter",
        "observer",
        "on_idle",
        "on_room",
        "retired",
        "weight",
    )

    def __init__(self, id: int, endpoint: str, *, weight: float = 1, born: float = 0.0, limit: int = UNLIMITED) -> None:
        self.id = id
        self.endpoint = endpoint
        self.weight = weight
        self.born = born
        self.leases: set[Hashable] = set()
        self.retired = False
        self.latency: float | None = None
        self.meter: Meter | None = None
        self.observer: Meter | None = None
        self.limit = limit
        self.on_idle: Callable[[Member], object] = _nobody_waits
        self.on_room: Callable[[Member], object] = _nobody_waits
        self.channel: Any = None
        self.bound: Any = None
        self._picks = Tally()
        self._failures = Tally()
        self._misses = Tally()
        self.count = self._picks.add

    @property
    def in_flight(self) -> int:
        """RPCs that run on this member now."""
        return len(self.leases)

    @property
    def picks(self) -> int:
        """RPCs that were started on this member."""
        return self._picks.value() - self._misses.value()

    @property
    def failures(self) -> int:
        """RPCs that ended with a status other than OK, cancellation by the caller not counted."""
        return self._failures.value()

    def admit(self, token: Hashable, limit: int | None = None) -> bool:
        """Put the token in for an RPC that is about to begin, unless the member is retired or full; True if it is in.

        What counts is the comparison after the token went in: so several threads at once may all find the member full
        when one of them would have fitted, but never get in beyond its limit.

        Arguments:
            limit: to go by instead of the member's own.
        """
        if self.retired or len(self.leases) >= (self.limit if limit is None else limit):
            return False
        self.leases.add(token)
        # Another thread may have set it meanwhile.
        if self.retired or len(self.leases) > (self.limit if limit is None else limit):  # type: ignore[redundant-expr]
            self.withdraw(token)
            return False
        return True

    def missed(self, token: Hashable) -> None:
        """Take out the token of an RPC that was counted already, but does not begin here after all."""
        self._misses.add()
        self.withdraw(token)

    def withdraw(self, token: Hashable) -> None:
        """Take out the token of an RPC that was admitted, and does not begin here after all."""
        self.leases.discard(token)
        if self.limit <= 0:
            self.rest()

    def begin(self, now: float, timed: bool, token: Hashable = None) -> Hashable:
        """Note that an RPC has begun, and return the token that stands for it until it ends.

        Arguments:
            now: the time in seconds.
            timed: it is a unary RPC, so that how long it takes says something about the member.
            token: anything that is not equal to another RPC's token; None: a new one.
        """
        number = self.count()
        token = number if token is None else token
        self.leases.add(token)
        if self.observer is not None:
            self.observer.started(now, timed)
        return token

    def answered(self, token: Hashable, now: float, latency: float | None, norm: Norm | None = None) -> bool:
        """Note that an RPC ended well; True for the one caller that is the first to say how it ended.

        Arguments:
            token: what `begin` returned.
            latency: seconds that it took; None where that says nothing about the member (a stream).
            norm: that of its method, if there are several methods.
        """
        # What `_ended` does, written out: most calls come this way.
        try:
            self.leases.remove(token)
        except KeyError:
            return False
        finally:
            if self.limit <= 0:
                self.rest()
        observer = self.observer
        if latency is not None:
            # Two threads that do this at once may lose one of the two samples. An average can bear that.
            average = self.latency
            self.latency = latency if average is None else average + (latency - average) * SMOOTHING
            if observer is not None and norm is not None and not norm.alone:
                latency = norm.learn(latency)
        if observer is not None:
            observer.answered(now, latency)
        return True

    def failed(
        self, token: Hashable, now: float, latency: float | None, norm: Norm | None = None, *, blame: bool = True
    ) -> bool:
        """Note that an RPC ended with a status other than OK; as `answered`.

        Arguments:
            blame: the member may be at fault. Else it is an answer of the application's, as good as any other.
        """
        if not self._ended(token):
            return False
        self._failures.add()
        observer = self.observer
        if observer is not None:
            if latency is not None and norm is not None:
                latency = norm.apply(latency)
            (observer.failed if blame else observer.answered)(now, latency)
        return True

    def dropped(self, token: Hashable, now: float, latency: float | None, norm: Norm | None = None) -> bool:
        """Note that the caller cancelled or abandoned an RPC; as `answered`."""
        if not self._ended(token):
            return False
        observer = self.observer
        if observer is not None:
            observer.dropped(now, norm.apply(latency) if latency is not None and norm is not None else latency)
        return True

    def _ended(self, token: Hashable) -> bool:
        try:
            self.leases.remove(token)
        except KeyError:
            return False
        finally:
            if self.limit <= 0:
                self.rest()
        return True

    def rest(self) -> None:
        """Say that an RPC has ended, to whom it matters: that the last one has, or that there is room for another.

        To be called after a token was taken out, if the `limit` is 0 or less. The other half of the handshake is in
        `retire`, and in `Admission`: they set that first and look at the leases second. Here the token goes first and
        what they set is looked at second. So at least one of both sees the other.
        """
        if not self.retired:
            self.on_room(self)
        elif not self.leases:
            self.on_idle(self)

    def allow(self, limit: int) -> None:
        """Set the limit, unless the member is retired. For one thread at a time, as `retire`."""
        if not self.retired:
            self.limit = limit

    def retire(self) -> bool:
        """Take no new RPC from now on, for good; True if none is running.

        See `rest` for why the order of the steps matters.
        """
        self.retired = True
        self.limit = -1
        return not self.leases

    def __repr__(self) -> str:
        return f"<Member {self.id} {self.endpoint} in_flight={len(self.leases)}{' retired' if self.retired else ''}>"


def _nobody_waits(member: Member) -> None:
    pass
