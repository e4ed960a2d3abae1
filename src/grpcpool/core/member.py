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
        eager: RPCs wait for it: its channel does not wait longer and longer between its attempts to connect.
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
        half: with so many in flight the next one brings the member to half of its limit, or above.
        on_idle: told when the last RPC of a retired member has ended. Called in the middle of anything.
        on_room: told when an RPC has ended while others wait in line. Called in the middle of anything.
        tolerance: RPCs that may fail in a row; None: any number. Many that end by a deadline end at one moment, be it
            because this process stood still: those are judged by whoever looks later, by `streak`.
        on_trouble: told when so many have, and again for each time as many. Called in the middle of anything.
        channel, bound: belong to the room that made the member: its grpc channel, and the counted view of it that
            `get_channel` hands out. The core never looks.
        closed: set by that room, for good, before it closes the channel.
    """

    __slots__ = (
        "__weakref__",
        "_alarm",
        "_blamed",
        "_drops",
        "_failures",
        "_misses",
        "_picks",
        "_spell",
        "_well",
        "born",
        "bound",
        "channel",
        "closed",
        "count",
        "eager",
        "endpoint",
        "half",
        "id",
        "latency",
        "leases",
        "limit",
        "meter",
        "observer",
        "on_idle",
        "on_room",
        "on_trouble",
        "retired",
        "tolerance",
        "weight",
    )

    def __init__(
        self,
        id: int,
        endpoint: str,
        *,
        weight: float = 1,
        born: float = 0.0,
        limit: int = UNLIMITED,
        eager: bool = False,
    ) -> None:
        self.id = id
        self.endpoint = endpoint
        self.weight = weight
        self.born = born
        self.eager = eager
        self.leases: set[Hashable] = set()
        self.retired = False
        self.latency: float | None = None
        self.meter: Meter | None = None
        self.observer: Meter | None = None
        self.half = _half(limit)
        self.limit = limit
        self.on_idle: Callable[[Member], object] = _nobody_waits
        self.on_room: Callable[[Member], object] = _nobody_waits
        self.channel: Any = None
        self.bound: Any = None
        self.closed = False
        self._picks = Tally()
        self._failures = Tally()
        self._misses = Tally()
        self.tolerance: int | None = None
        self.on_trouble: Callable[[Member], object] = _nobody_waits
        self._blamed = Tally()
        self._drops = Tally()
        # How many had been answered when one failed last; how many had failed before the first one since then; and
        # the length of the spell at which somebody is told.
        self._well = 0
        self._spell = 0
        self._alarm = 0
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

    @property
    def blamed(self) -> int:
        """RPCs that ended in a way that the member may be at fault for."""
        return self._blamed.value()

    @property
    def drops(self) -> int:
        """RPCs that the caller cancelled or abandoned."""
        return self._drops.value()

    @property
    def answers(self) -> int:
        """RPCs that were answered: well, or with a status that an application chose.

        Nothing counts these when they happen, and so they cost nothing. While an RPC begins or ends in another thread
        the result may be off by one, for that instant.
        """
        return self.picks - len(self.leases) - self.blamed - self.drops

    @property
    def streak(self) -> int:
        """RPCs in a row that ended in a way that the member may be at fault for."""
        return 0 if self.answers > self._well else self.blamed - self._spell

    def settle(self) -> None:
        """See to it that a count which was off for an instant does not make a row of failures longer than it is."""
        self._well = min(self._well, self.answers)

    def forgive(self, tolerance: int | None) -> None:
        """Forget the failures so far, and be told from now on when so many have failed in a row."""
        self.tolerance = tolerance
        self._well, self._spell, self._alarm = self.answers, self.blamed, tolerance or 0

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
        self,
        token: Hashable,
        now: float,
        latency: float | None,
        norm: Norm | None = None,
        *,
        blame: bool = True,
        late: bool = False,
    ) -> bool:
        """Note that an RPC ended with a status other than OK; as `answered`.

        Arguments:
            blame: the member may be at fault. Else it is an answer of the application's, as good as any other.
            late: its deadline has passed. `on_trouble` is not told of that.
        """
        if not self._ended(token):
            return False
        self._failures.add()
        if blame:
            self._blame(late)
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
        self._drops.add()
        observer = self.observer
        if observer is not None:
            observer.dropped(now, norm.apply(latency) if latency is not None and norm is not None else latency)
        return True

    def _blame(self, late: bool) -> None:
        self._blamed.add()
        if self.tolerance is None:
            return
        # Several threads may be here at once. The counts are exact, so the worst that can come of it is that somebody
        # is told a call too late, or twice.
        answers, blamed = self.answers, self.blamed
        if answers > self._well:
            self._well, self._spell, self._alarm = answers, blamed - 1, self.tolerance
        if blamed - self._spell >= self._alarm and not late:
            self._alarm = blamed - self._spell + self.tolerance
            self.on_trouble(self)

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
            # First: whoever finds that to be reached looks at the limit.
            self.half = _half(limit)
            self.limit = limit

    def retire(self) -> bool:
        """Take no new RPC from now on, for good; True if none is running.

        See `rest` for why the order of the steps matters.
        """
        self.retired = True
        self.half = self.limit = -1
        return not self.leases

    def __repr__(self) -> str:
        return f"<Member {self.id} {self.endpoint} in_flight={len(self.leases)}{' retired' if self.retired else ''}>"


def _half(limit: int) -> int:
    return (limit + 1) // 2 - 1


def _nobody_waits(member: Member) -> None:
    pass
