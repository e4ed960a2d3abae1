"""What happened lately: counts of the last so many seconds."""

from __future__ import annotations

from collections import deque

__all__ = ["Window"]

# Into so many parts a window is divided. What is older than the window is forgotten a part at a time, so a count may
# reach back a tenth too little.
PARTS = 10


class Window:
    """How many RPCs were answered and how many failed within the last so many seconds.

    Pure: told the time with everything it is told. Time that stands still or leaps ahead does it no harm.

    Arguments:
        seconds: how far it looks back.
    """

    __slots__ = ("_parts", "_seconds", "_width")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._width = seconds / PARTS
        # When each part began, and what it counts; oldest first.
        self._parts: deque[tuple[float, int, int]] = deque()

    def add(self, now: float, answered: int, failed: int) -> None:
        """Count some that ended just before `now`."""
        self._forget(now)
        if not answered and not failed:
            return
        parts = self._parts
        if parts and now - parts[-1][0] < self._width:
            began, before, failed_before = parts.pop()
            parts.append((began, before + answered, failed_before + failed))
        else:
            parts.append((now, answered, failed))

    def sums(self, now: float, seconds: float | None = None) -> tuple[int, int]:
        """Return how many were answered, and how many failed.

        Arguments:
            seconds: look back only so far; None: as far as it goes.
        """
        self._forget(now)
        since = now - (self._seconds if seconds is None else seconds)
        lately = [part for part in self._parts if part[0] >= since]
        return sum(answered for _, answered, _ in lately), sum(failed for _, _, failed in lately)

    def clear(self) -> None:
        """Forget everything."""
        self._parts.clear()

    def _forget(self, now: float) -> None:
        parts = self._parts
        while parts and parts[0][0] < now - self._seconds:
            parts.popleft()
