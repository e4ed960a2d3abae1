"""Equal keys to the same member, unless it has more than its share of the load."""

from __future__ import annotations

import functools
import itertools
import random
import struct
import weakref
from bisect import bisect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol
from zlib import crc32

from .base import Clock, Member, Meter
from .power_of_two import PowerOfTwo

if TYPE_CHECKING:
    from ..keys import Key

__all__ = ["ConsistentHash"]

# Points on the ring for the heaviest members. The part of the ring that belongs to one of equally heavy members then
# has a standard deviation of 1 / sqrt(128), 9 %, of its mean: one half as large again is a matter of 1 in 200,000.
POINTS = 128
# A point is its place on the ring, 32 bits as the hash of a key has, and below them the index of its member.
SHIFT = 20
MEMBER = (1 << SHIFT) - 1


class KeyedPicker(Protocol):
    """Chooses a member for one RPC by the RPC's key."""

    def __call__(self, key: Key | None = None) -> Member:
        """Return the member that is to serve the next RPC."""
        ...


class ConsistentHash:
    """Sends RPCs with equal keys to the same member, as long as that is connected and not overloaded.

    Members and keys have places on a ring, and a key belongs to the member whose place is next. A member that joins
    takes over its part of the keys from all others, about one N-th of them; one that leaves gives its keys to all
    others; no other key moves. Each member has many places, so that the parts are about equal, or as unequal as the
    weights: a part is proportional to `Member.weight`, give or take some 9 %, or 30 % for a tenth of the heaviest.

    Where a member's places are follows from its endpoint and its number among the members of that endpoint. Every
    client finds the same places, in every process, and a member's successor gets those of its predecessor.

    The load is bounded: with ``n`` equal members and ``m`` RPCs in flight on them, a member that has ``1.25 * (m + 1) /
    n`` in flight or more is passed over, and the RPC goes to the next on the ring (V. Mirrokni, M. Thorup, M.
    Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016). So a key that everybody asks for does not bring its
    member down; and where there are fewer RPCs in flight than members, a key goes elsewhere whenever its member has one
    in flight already. Weights change the bound in proportion.

    An RPC without a key goes to the less loaded of two random members.

    Arguments:
        bound: how many times the mean a member may have in flight, above 1. ``math.inf``: any number; a key then never
            goes anywhere else while its member is connected.
    """

    keyed = True

    def __init__(self, bound: float = 1.25) -> None:
        if not bound > 1:
            raise ValueError(f"bound must be a number above 1, not {bound!r}")
        self._bound = bound
        self._seats: dict[str, list[int]] = {}
        self._heaviest = 0.0
        self._load = Load()

    def meter(self, member: Member) -> Meter:
        """Count the member's RPCs in."""
        self._load.known.add(member)
        return self._load

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> KeyedPicker:
        """Return a picker that takes the RPC's key, text or bytes, or None.

        Making the ring takes about 0.05 ms for each member.
        """
        pool = tuple(members)
        # Of all that were ever seen: if it were only of those that are connected, keys would move between the others
        # when the heaviest comes or goes.
        self._heaviest = max(self._heaviest, *(member.weight for member in pool))
        numbers = self._numbers(pool)
        ring = []
        for index, member in enumerate(pool):
            count = max(1, round(POINTS * member.weight / self._heaviest))
            ring += [place << SHIFT | index for place in _places(member.endpoint, numbers[member.id], count)]
        ring.sort()
        return self._picker(pool, ring, PowerOfTwo().build(pool, rng=rng, clock=clock))

    def _picker(self, pool: tuple[Member, ...], ring: list[int], without_key: Callable[[], Member]) -> KeyedPicker:
        places = [point >> SHIFT for point in ring]
        owners = [pool[point & MEMBER] for point in ring]
        size = len(ring)
        mass = sum(member.weight for member in pool)
        bound = self._bound
        up, down = self._load.up, self._load.down
        strays = self._load.strays(pool)

        def pick(key: Key | None = None) -> Member:
            nonlocal strays
            if key is None:
                return without_key()
            if isinstance(key, str):
                try:
                    key = key.encode()
                except UnicodeEncodeError:
                    # No key that anybody gave by name; but metadata may hold anything, and a pick must not raise.
                    key = key.encode(errors="surrogatepass")  # type: ignore[union-attr]
            # Of `size` indices, counted from the end, so that the next ones are simply larger.
            home = bisect(places, crc32(key)) - size
            # Neither count can be read without counting; but as each look does both, the difference stays right. Other
            # threads may count between the two steps: in this order that makes it too high, if anything, by so many.
            ended = down()
            running = up() - ended
            if strays:
                strays = tuple(member for member in strays if member.leases)
                running -= sum(len(member.leases) for member in strays)
            # Products of integers, where the weights are some, so that the bound is kept exactly.
            share = bound * (running + 1)
            member = owners[home]
            if len(member.leases) * mass < share * member.weight:
                return member
            for index in range(home + 1, home + size):
                member = owners[index]
                if len(member.leases) * mass < share * member.weight:
                    return member
            # They cannot all have more than the mean; but other threads may have started RPCs since it was taken.
            return owners[home]

        return pick

    def _numbers(self, members: Sequence[Member]) -> dict[int, int]:
        """Return each member's number among those of its endpoint, by its id.

        A member keeps its number, also while it is not connected, unless a new one needs a number meanwhile: that one
        gets the lowest whose holder is not there.
        """
        here: dict[str, set[int]] = {}
        for member in members:
            here.setdefault(member.endpoint, set()).add(member.id)
        numbers: dict[int, int] = {}
        for endpoint, ids in here.items():
            seats = self._seats.setdefault(endpoint, [])
            free = iter([number for number, holder in enumerate(seats) if holder not in ids])
            for newcomer in sorted(ids.difference(seats)):
                number = next(free, len(seats))
                seats[number : number + 1] = [newcomer]
            numbers.update((holder, number) for number, holder in enumerate(seats))
        return numbers


@functools.lru_cache(maxsize=1024)
def _places(endpoint: str, number: int, count: int) -> list[int]:
    """Return a member's places on the ring, in order. A higher count adds to those that there are at a lower one."""
    # Imported when it is needed, as it loads OpenSSL.
    import hashlib

    name = f"{endpoint}\0{number}\0".encode()
    digests = (hashlib.blake2b(b"%s%d" % (name, part)).digest() for part in range(POINTS // 16))
    places = itertools.chain.from_iterable(struct.unpack(">16I", digest) for digest in digests)
    return sorted(itertools.islice(places, count))


class Load:
    """Counts the RPCs in flight on all members of a pool, as the meter of each of them.

    Attributes:
        up, down: count an RPC in or out: single steps for the interpreter, so that no thread gets in between. What each
            returns is how often it was called before.
        known: the members.
    """

    def __init__(self) -> None:
        self.up = itertools.count().__next__
        self.down = itertools.count().__next__
        self.known: weakref.WeakSet[Member] = weakref.WeakSet()

    def started(self, now: float, timed: bool) -> None:
        """Count an RPC in."""
        self.up()

    def answered(self, now: float, latency: float | None) -> None:
        """Count an RPC out."""
        self.down()

    failed = dropped = answered

    def strays(self, members: Sequence[Member]) -> tuple[Member, ...]:
        """Return all others that have RPCs in flight: those that left, with streams that may last for hours."""
        return tuple(member for member in self.known.difference(members) if member.leases)
