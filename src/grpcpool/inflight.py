"""Knowing when an RPC is over, without keeping its call alive."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

import grpc

from .core.member import Member
from .core.norm import Norm
from .outcome import settle

__all__ = ["InFlight"]


class InFlight(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to a call, which stands for its RPC among the member's leases, and ends with it.

    The call object must not be kept alive by what watches it: a stream that its user drops is cancelled by its own
    destructor. And that may be the last that is heard of it (no callback of an aio call runs then), so its death is
    watched as well. Being a lease is also what keeps the reference itself alive until then: one that dies before its
    call is never called.

    Attributes:
        member: where it runs.
        started: when it began.
        timed: whether its latency counts.
        norm: of its method.
        code_of: returns the status of a call that has ended; None if it has none.
        suspect: told of a member on which an RPC ended UNAVAILABLE.
    """

    __slots__ = ("code_of", "member", "norm", "started", "suspect", "timed")

    member: Member
    started: float
    timed: bool
    norm: Norm
    code_of: Callable[[Any], grpc.StatusCode | None]
    suspect: Callable[[Member], object]

    # Each is unique. A weak reference would else be compared, and hashed, as what it refers to: which may be a call of
    # somebody's own, that cannot be hashed.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def ended(self) -> None:
        """Take down how the call ended. Safe from any thread; only the first time counts."""
        call = self()
        # Dead: its caller has dropped it.
        code = None if call is None else self.code_of(call)
        now = time.monotonic()
        settle(self.member, self, code, now, now - self.started if self.timed else None, self.norm)
        if code is grpc.StatusCode.UNAVAILABLE:
            self.suspect(self.member)

    def abandoned(self) -> None:
        """Take down that the call object is gone. Called by the garbage collector, in the middle of anything."""
        now = time.monotonic()
        self.member.dropped(self, now, now - self.started if self.timed else None, self.norm)
