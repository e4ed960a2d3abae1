"""How long to wait before the next connection attempt."""

from __future__ import annotations

import random

__all__ = ["backoff"]

# Both from gRPC's connection backoff protocol (doc/connection-backoff.md in the gRPC repository), which the channels
# themselves follow: the pool's schedule and theirs then tick in step.
MULTIPLIER = 1.6
JITTER = 0.2


def backoff(failures: int, *, minimum: float, maximum: float, rng: random.Random) -> float:
    """Return the delay in seconds after `failures` failed attempts in a row (1 or more).

    It grows from `minimum` by a factor of 1.6 with each failure up to `maximum`, and is then spread by ±20 % so that
    clients that lost the same server do not all come back at the same moment; the spread never exceeds `maximum`.
    """
    # The exponent is capped because 1.6 ** 1500 overflows a float, and an outage may last that long.
    delay = min(minimum * MULTIPLIER ** min(failures - 1, 64), maximum)
    return min(delay * rng.uniform(1 - JITTER, 1 + JITTER), maximum)
