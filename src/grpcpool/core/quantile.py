"""How long nearly all calls of a method take."""

from __future__ import annotations

from collections import deque

__all__ = ["Usual"]

# Calls that are remembered: enough for a dozen of them to be above the 95th percentile.
REMEMBERED = 256
# The percentile is worked out anew after so many calls, and not known before that many: of fewer than twenty, the
# slowest is no news.
EVERY = 32
SHARE = 0.95


class Usual:
    """The time in which 95 of 100 calls are answered. Safe from any thread, without a lock: a call may get lost.

    Attributes:
        seconds: that time; None before 32 calls.
    """

    __slots__ = ("_begun", "_latencies", "_news", "_repeated", "seconds")

    def __init__(self) -> None:
        self._latencies: deque[float] = deque(maxlen=REMEMBERED)
        self._news = 0
        self._begun = self._repeated = 0
        self.seconds: float | None = None

    def learn(self, latency: float) -> None:
        """Take in that a call took `latency` seconds."""
        self._begun += 1
        self._latencies.append(latency)
        self._news += 1
        if self._news >= EVERY:
            self._news = 0
            # A copy is one step, where other threads append meanwhile.
            known = sorted(self._latencies.copy())
            self.seconds = known[min(int(len(known) * SHARE), len(known) - 1)]

    def spare(self) -> bool:
        """Say whether a call that takes longer may be sent twice; if so, it counts.

        About one in twenty takes longer, by definition. If it is more, because times have changed since they were
        measured, those are too many.
        """
        if self._repeated + 1 > self._begun * (1 - SHARE):
            return False
        self._repeated += 1
        return True
