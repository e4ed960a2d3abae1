"""Every member in turn."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from .base import Clock, Member, Picker

__all__ = ["RoundRobin"]


class RoundRobin:
    """Every member in turn: the default, and the cheapest pick there is."""

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> Picker:
        """Return a rotation that starts at a random member.

        If it always started at the first, a pool whose members come and go would send most of its traffic to the first
        few; and so would many clients that start together. The rotation itself is C code that holds the interpreter
        from start to end, which is why it needs no lock.
        """
        start = rng.randrange(len(members))
        return itertools.cycle((*members[start:], *members[:start])).__next__
