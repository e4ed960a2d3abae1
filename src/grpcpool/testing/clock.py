"""Time that stands still until it is told to go on."""

from __future__ import annotations

__all__ = ["FakeClock"]


class FakeClock:
    """A clock for tests: call it for the time in seconds, and `advance` it."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    def advance(self, seconds: float) -> float:
        """Let `seconds` (0 or more) pass, and return the new time."""
        if seconds < 0:
            raise ValueError(f"a clock cannot go back: {seconds!r} seconds")
        self.now += seconds
        return self.now
