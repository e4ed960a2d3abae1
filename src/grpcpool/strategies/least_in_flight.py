"""The least loaded of all members."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .base import Clock, Member, Picker

__all__ = ["LeastInFlight"]

# Up to so many members every order of scanning is written down beforehand, which makes a scan a third cheaper: 32
# tuples of 32 at most, 10 kB.
TABLED = 32
# More than can be in flight.
NONE_YET = 1 << 29


class LeastInFlight:
    """Looks at every member and takes the one with the fewest RPCs in flight.

    Members with equally few take turns: a scan begins behind the member that was picked last, and the first of the
    fewest is taken. (Were it to begin anywhere at random, the one behind a row of busy members would get their share
    on top of its own; were it always to begin at the first member, that one would get most of a quiet pool's traffic.)

    What it costs grows with the number of members, unless one of them is idle: the scan ends at the first of those. For
    large pools `PowerOfTwo` is nearly as good, at the same price for any size. And many clients that all look for the
    least loaded server find the same one, which is then the most loaded; two random choices keep them apart.
    """

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> Picker:
        """Return a picker that scans all members, beginning at a random one."""
        pool = tuple(members)
        start = rng.randrange(len(pool))
        return _from_table(pool, start) if len(pool) <= TABLED else _by_index(pool, start)


# Both keep where to begin in one variable, which threads may overwrite for each other: the next scan then begins
# somewhere else, and finds what is there all the same.


def _from_table(pool: tuple[Member, ...], start: int) -> Picker:
    behind = {member: (*pool[index + 1 :], *pool[: index + 1]) for index, member in enumerate(pool)}
    order = behind[pool[start]]

    def pick() -> Member:
        nonlocal order
        chosen = order[0]
        fewest = NONE_YET
        for member in order:
            load = len(member.leases)
            if load < fewest:
                chosen = member
                if not load:
                    break
                fewest = load
        order = behind[chosen]
        return chosen

    return pick


def _by_index(pool: tuple[Member, ...], start: int) -> Picker:
    count = len(pool)
    # Twice around, so that a scan from anywhere is a plain range.
    ring = pool + pool

    def pick() -> Member:
        nonlocal start
        chosen = start
        fewest = NONE_YET
        for index in range(start, start + count):
            load = len(ring[index].leases)
            if load < fewest:
                chosen = index
                if not load:
                    break
                fewest = load
        start = (chosen + 1) % count
        return ring[chosen]

    return pick
