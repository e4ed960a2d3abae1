"""The less loaded of two members drawn at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from .base import Clock, Member, Meter, Picker
from .load import Gauge, Load

__all__ = ["PowerOfTwo"]

# Random bits for each pick, for two draws in one. An interpreter integer of up to 30 bits is a single digit, which
# keeps the arithmetic below on its fast path. Two draws out of n members need log2(n * (n - 1)) bits; at n = 1,024
# that leaves a factor of 2**10, so no pair of members is likelier than another by more than one in a thousand.
BITS = 30
# Up to so many members all pairs are written down beforehand, which makes a pick a third cheaper: 992 pairs at most,
# 70 kB.
TABLED = 32


class PowerOfTwo:
    """Draws two distinct members at random and takes the one with fewer RPCs in flight.

    That is enough to bring the longest queue from O(log n / log log n) down to O(log log n), without looking at every
    member and without all clients flocking to the same one (M. Mitzenmacher, "The Power of Two Choices in Randomized
    Load Balancing", 2001). What counts is work in flight, not picks: a slow member fills up and is then avoided.

    Arguments:
        load: what to compare the two by instead; see `grpcpool.strategies.load`.
    """

    def __init__(self, load: Load | None = None) -> None:
        # Nothing at all is measured by default: how many are in flight can be read off the member.
        self.meter: Callable[[Member], Meter] | None = None if load is None else load.gauge

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> Picker:
        """Return a picker that compares two distinct members; ties are broken at random."""
        pool = tuple(members)
        if len(pool) == 1:
            only = pool[0]
            return lambda: only
        if self.meter is not None:
            return _by_cost(pool, rng, clock)
        return _from_table(pool, rng) if len(pool) <= TABLED else _by_arithmetic(pool, rng)


# All draw each ordered pair of distinct members with the same chance, so that preferring the first of two equals is as
# random as tossing a coin.


def _from_table(pool: tuple[Member, ...], rng: random.Random) -> Picker:
    pairs = tuple((one, other) for one in pool for other in pool if one is not other)
    count = len(pairs)
    bits = rng.getrandbits

    def pick() -> Member:
        first, second = pairs[bits(BITS) % count]
        return second if len(second.leases) < len(first.leases) else first

    return pick


def _by_arithmetic(pool: tuple[Member, ...], rng: random.Random) -> Picker:
    count = len(pool)
    others = count - 1
    bits = rng.getrandbits

    def pick() -> Member:
        draw = bits(BITS)
        index = draw % count
        first = pool[index]
        # One of the `others` places before `index`, counted round the end: never `index` itself.
        second = pool[index - 1 - draw // count % others]
        return second if len(second.leases) < len(first.leases) else first

    return pick


def _by_cost(pool: tuple[Member, ...], rng: random.Random, clock: Clock) -> Picker:
    gauges: tuple[Gauge, ...] = tuple(member.meter for member in pool)
    count = len(gauges)
    others = count - 1
    bits = rng.getrandbits

    def pick() -> Member:
        draw = bits(BITS)
        index = draw % count
        first = gauges[index]
        # See above.
        second = gauges[index - 1 - draw // count % others]
        now = clock()
        return second.member if second.cost(now) < first.cost(now) else first.member

    return pick
