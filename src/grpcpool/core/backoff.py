"""How long to wait before the next connection attempt."""

from __future__ import annotations

import random

__all__ = ["backoff", "patience"]

# Both from gRPC's connection backoff protocol (doc/connection-backoff.md in the gRPC repository), which the channels
# themselves follow: the pool's schedule and theirs then tick in step.
MULTIPLIER = 1.6
JITTER = 0.2
# What an attempt takes over a network, in seconds: two round trips around the globe. One that takes longer is asked
# about while it runs, and the question then waits for it.
HANDSHAKE = 0.5


def backoff(failures: int, *, minimum: float, maximum: float, rng: random.Random) -> float:
    """Return the delay in seconds after `failures` failed attempts in a row (1 or more).

    It grows from `minimum` by a factor of 1.6 with each failure up to `maximum`, and is then spread by ±20 % so that
    clients that lost the same server do not all come back at the same moment; the spread never exceeds `maximum`.
    """
    return min(_nominal(failures, minimum, maximum) * rng.uniform(1 - JITTER, 1 + JITTER), maximum)


def patience(failures: int, *, minimum: float, maximum: float) -> float:
    """Return how long after the `backoff` grpc's own attempt has surely been made, in seconds.

    Its schedule has the same jitter as ours but other dice: at worst ours came 20 % early and its comes 20 % late.
    """
    return 2 * JITTER * _nominal(failures, minimum, maximum) + HANDSHAKE


def _nominal(failures: int, minimum: float, maximum: float) -> float:
    # The exponent is capped because 1.6 ** 1500 overflows a float, and an outage may last that long.
    return min(minimum * MULTIPLIER ** min(failures - 1, 64), maximum)
