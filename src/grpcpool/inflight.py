"""Knowing when an RPC is over, without keeping its call alive."""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from time import monotonic
from typing import Any, Protocol

import grpc

from .core.member import Member
from .core.norm import Norm
from .outcome import OK, UNAVAILABLE, settle

__all__ = ["InFlight", "Method", "finish"]


class Method(Protocol):
    """What is the same for all calls of one method.

    Attributes:
        timed: whether latencies count: it is unary.
        norm: what it usually takes.
    """

    timed: bool
    norm: Norm

    def code_of(self, call: Any, /) -> grpc.StatusCode | None:
        """Return the status of a call that has ended; None if it has none."""
        ...

    def suspect(self, member: Member, /) -> object:
        """Have a look taken at a member on which an RPC ended UNAVAILABLE."""
        ...


def finish(method: Method, member: Member, token: Hashable, started: float, code: grpc.StatusCode | None) -> None:
    """Take down that an RPC ended with this status, or without any, and have its member looked at if that seems gone.

    Arguments:
        token: what `Member.begin` returned.
        started: when it did.
    """
    now = monotonic()
    settle(member, token, code, now, now - started if method.timed else None, method.norm)
    if code is UNAVAILABLE:
        method.suspect(member)


class InFlight(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to a call, which stands for its RPC among the member's leases, and ends with it.

    The call object must not be kept alive by what watches it: a stream that its user drops is cancelled by its own
    destructor. And that may be the last that is heard of it (no callback of an aio call runs then), so its death is
    watched as well. Being a lease is also what keeps the reference itself alive until then: one that dies before its
    call is never called.

    Attributes:
        member: where it runs.
        method: what it calls.
        started: when it began.
    """

    __slots__ = ("member", "method", "started")

    member: Member
    method: Method
    started: float

    # Each is unique. A weak reference would else be compared, and hashed, as what it refers to: which may be a call of
    # somebody's own, that cannot be hashed.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def timed(self) -> bool:
        """It is unary: as `Lease.timed`, which it takes the place of."""
        return self.method.timed

    def ended(self) -> None:
        """Take down how the call ended. Safe from any thread; only the first time counts."""
        method, member, call = self.method, self.member, self()
        # Dead: its caller has dropped it.
        code = None if call is None else method.code_of(call)
        if code is OK:
            # What `finish` does, for what happens most.
            now = monotonic()
            member.answered(self, now, now - self.started if method.timed else None, method.norm)
        else:
            finish(method, member, self, self.started, code)

    def abandoned(self) -> None:
        """Take down that the call object is gone. Called by the garbage collector, in the middle of anything."""
        method, member = self.method, self.member
        # Mostly it has ended before: what has been told of that keeps this object alive as long as the call.
        if self in member.leases:
            now = monotonic()
            member.dropped(self, now, now - self.started if method.timed else None, method.norm)
