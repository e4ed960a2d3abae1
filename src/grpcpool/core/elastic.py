"""How many members the load asks for."""

from __future__ import annotations

import math

__all__ = ["LARGEST_STEP", "Elasticity"]

# A pool gives up at most this share of its members at a time (but one at least): what proves to have been too much can
# then be made up for by a small step, and the rest does not feel it much.
LARGEST_STEP = 1 / 4


class Elasticity:
    """Decides when a pool should have more or fewer members, going by the RPCs that each has in flight.

    It grows as soon as the band's upper edge is passed or RPCs wait, at most to double its size. It shrinks only when
    all readings of a whole interval were below the band's lower edge, and only so far that the highest of them would
    not have been above the middle of the band: so what makes it shrink cannot make it grow again.

    Arguments:
        low, high: the band: RPCs in flight per member.
        interval: seconds.
    """

    __slots__ = ("_highest", "_interval", "_low_since", "_not_before", "high", "low")

    def __init__(self, low: float, high: float, interval: float) -> None:
        self.low = low
        self.high = high
        self._interval = interval
        self._low_since: float | None = None
        self._highest = 0
        self._not_before = -math.inf

    def pause(self, until: float) -> None:
        """Do not grow before that time."""
        self._not_before = until

    def forget(self) -> None:
        """Forget the readings so far: they are of a pool of another size."""
        self._low_since = None

    def judge(
        self, now: float, *, size: int, least: int, most: int, in_flight: int, waiting: int
    ) -> tuple[int, str] | None:
        """Take in one reading, and return the size that the pool should have and why; None: the one that it has.

        Arguments:
            least, most: the bounds of the size.
            in_flight: RPCs in flight on all members together.
            waiting: RPCs that wait for room.
        """
        load = in_flight + waiting
        middle = (self.low + self.high) / 2
        if size < most and (waiting or load > self.high * size):
            self._low_since = None
            if now < self._not_before:
                return None
            why = f"{waiting} RPCs wait and {in_flight} run" if waiting else f"{in_flight} RPCs run"
            wanted = min(max(math.ceil(load / middle), size + 1), 2 * size, most)
            return wanted, f"{why} on {size} members, and {self.high:g} on each are enough"
        if size <= least or waiting or load >= self.low * size:
            self._low_since = None
            return None
        if self._low_since is None:
            self._low_since, self._highest = now, load
        self._highest = max(self._highest, load)
        if now - self._low_since < self._interval:
            return None
        highest, self._low_since = self._highest, None
        wanted = max(math.ceil(highest / middle), size - max(int(size * LARGEST_STEP), 1), least)
        if wanted >= size:
            return None
        return wanted, f"no more than {highest} RPCs ran on {size} members for {self._interval:g} s"
