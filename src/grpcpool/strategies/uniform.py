"""Any member, with equal chance."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

from .base import Clock, Member, Picker

__all__ = ["Random"]


class Random:
    """Any member, with equal chance and without memory."""

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> Picker:
        """Return a picker that draws one member uniformly."""
        return functools.partial(rng.choice, tuple(members))
