"""How often to look at something: often while there is news, seldom when there is none."""

from __future__ import annotations

__all__ = ["Pace"]

# Between two looks while something is going on, in seconds: well below what connecting over a network takes.
FAST = 0.005
# How quickly the pace falls from there to the slow one: within a third of a second without news.
SLACKEN = 1.5

# What a look at one member costs in seconds of CPU, out of cold caches; and the share of a core that looking may take.
COST = 2e-6
SHARE = 0.002


class Pace:
    """The time from one look to the next.

    Attributes:
        slow: seconds between two looks when nothing has happened for a while.
    """

    __slots__ = ("_pause", "slow")

    def __init__(self, slow: float) -> None:
        self.slow = slow
        self._pause = FAST

    def suit(self, members: int, *, least: float, most: float) -> None:
        """Look at a large pool less often, so that looking takes no more than its share; within these bounds."""
        self.slow = min(max(least, members * COST / SHARE), most)

    def quicken(self) -> None:
        """Look often for a while."""
        self._pause = FAST

    def next(self, news: bool, appointment: float | None) -> float:
        """Return the seconds until the next look.

        Arguments:
            news: whether the last look saw any.
            appointment: seconds until something is due, or None.
        """
        self._pause = FAST if news else min(self._pause * SLACKEN, self.slow)
        # An appointment that is overdue is kept in a moment, not in a busy loop.
        return self._pause if appointment is None else max(min(self._pause, appointment), FAST)
