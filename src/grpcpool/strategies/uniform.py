"""Any member, with equal chance."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .base import Clock, Member, Picker

__all__ = ["Random"]


# Random bits for each pick: as many as an interpreter integer holds in one digit, on which arithmetic is fast. With a
# million members, none would be likelier than another by more than one in a thousand.
BITS = 30


class Random:
    """Any member, with equal chance and without memory."""

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> Picker:
        """Return a picker that draws one member uniformly."""
        pool = tuple(members)
        count = len(pool)
        bits = rng.getrandbits

        def pick() -> Member:
            return pool[bits(BITS) % count]

        return pick
