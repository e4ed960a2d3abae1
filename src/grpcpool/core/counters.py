"""A counter that any number of threads may bump without a lock."""

from __future__ import annotations

import itertools

__all__ = ["Tally"]


class Tally:
    """Counts up, exactly, from many threads, without a lock.

    ``x += 1`` reads, adds and stores: two threads can lose a count between the steps. ``next()`` on an
    `itertools.count` is one step, so that is what `add` is. Such a count cannot be looked at without being advanced;
    therefore each look is counted as well, and taken off.

    `add` is safe from any thread, also from a garbage collection that interrupts another `add`. So is `value`; while
    several threads look at the same instant it may be off by their number, for that instant only.
    """

    __slots__ = ("_looks", "add")

    def __init__(self) -> None:
        self.add = itertools.count().__next__
        self._looks = itertools.count().__next__

    def value(self) -> int:
        """Return how often `add` was called."""
        looks = self._looks()
        return self.add() - looks
