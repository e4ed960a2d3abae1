"""What a selection strategy is: the protocols.

A *strategy* is built once per generation, that is whenever the set of connected members changes. What it builds is a
*picker*: it is called once per RPC. All the work that can be done ahead belongs into the building; all that is left for
the picker is the choice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence, Sized
from typing import Any, Protocol, runtime_checkable

__all__ = ["Clock", "Member", "Meter", "Picker", "Strategy"]

Clock = Callable[[], float]


class Member(Protocol):
    """What a strategy may know of a member. All of it may change between two reads."""

    @property
    def id(self) -> int:
        """Unique within the pool, never used again."""
        ...

    @property
    def endpoint(self) -> str:
        """The gRPC target that it connects to."""
        ...

    @property
    def weight(self) -> float:
        """The endpoint's relative share of the traffic."""
        ...

    @property
    def in_flight(self) -> int:
        """RPCs that run on it now."""
        ...

    @property
    def leases(self) -> Sized:
        """The RPCs in flight; ``len(member.leases)`` is `in_flight` at half the price."""
        ...

    @property
    def picks(self) -> int:
        """RPCs that were started on it."""
        ...

    @property
    def failures(self) -> int:
        """RPCs that ended with a status other than OK, cancellation by the caller not counted."""
        ...

    @property
    def latency(self) -> float | None:
        """Moving average of its unary RPCs in seconds; None before the first has ended."""
        ...

    @property
    def meter(self) -> Any:
        """What the strategy's own `meter` returned for it; None if it has no such method, or that raised."""
        ...


class Meter(Protocol):
    """What a strategy notes about one member.

    A strategy that measures has a method ``meter(member)`` that returns one. It is called once for each member, before
    the first picker that may pick it is built, and the meter is told of every RPC from then on. Strategies without
    that method are told nothing, which is cheaper.

    Called by every RPC, from any thread, without a lock, even from a garbage collection in the middle of another call:
    a meter must not block and must not raise. Latencies are those of unary RPCs only (a stream lasts as long as it
    is wanted), with the differences between methods taken out; None for all others.
    """

    def started(self, now: float, timed: bool) -> None:
        """An RPC begins; `timed` if its latency will be told."""
        ...

    def answered(self, now: float, latency: float | None) -> None:
        """One ended OK, or with a status that an application chose to answer with."""
        ...

    def failed(self, now: float, latency: float | None) -> None:
        """One ended UNAVAILABLE, RESOURCE_EXHAUSTED, INTERNAL, UNKNOWN or DEADLINE_EXCEEDED."""
        ...

    def dropped(self, now: float, latency: float | None) -> None:
        """One was cancelled or abandoned by its caller, after so many seconds."""
        ...


class Picker(Protocol):
    """Chooses a member for one RPC.

    Called by every RPC, from any thread, without a lock: it must not block, must not raise, and may return only members
    that it was built from.
    """

    def __call__(self) -> Member:
        """Return the member that is to serve the next RPC."""
        ...


@runtime_checkable
class Strategy(Protocol):
    """Builds a picker for each generation.

    One strategy object serves one pool for as long as it lives. What must survive a change of members (a position in a
    rotation, say) is kept on the strategy or read off the members, never in the picker.
    """

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> Picker:
        """Return a picker over `members`.

        Arguments:
            members: the connected members, at least one. Immutable.
            rng: the pool's source of randomness. Seeded runs repeat exactly if nothing else is used.
            clock: the pool's clock, in seconds.

        Called by one thread at a time, never while a picker of the same pool is being built. If it raises, the pool
        goes on with the picker it has.
        """
        ...
