"""How often to look at something: often while there is news, seldom when there is none."""

from __future__ import annotations

__all__ = ["Pace"]

# Between two looks while something is going on, in seconds: well below what connecting over a network takes.
FAST = 0.005
# How quickly the pace falls from there to the slow one: within a third of a second without news.
SLACKEN = 1.5


class Pace:
    """The time from one look to the next.

    Attributes:
        slow: seconds between two looks when nothing has happened for a while.
    """

    __slots__ = ("_pause", "slow")

    def __init__(self, slow: float) -> None:
        self.slow = slow
        self._pause = FAST

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
