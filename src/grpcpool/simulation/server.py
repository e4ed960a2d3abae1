"""A backend: how long each call takes there, and whether it is answered at all."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from heapq import heapreplace
from statistics import NormalDist

from .scenario import Antagonist, Backends, Slowdown

__all__ = ["NEVER", "Server"]

NEVER = math.inf

# A time, and how many times as long a call takes from then on.
_Speed = tuple[float, float]


class Server:
    """One backend. Calls must be given to it in the order in which they arrive.

    That order is all it needs to say at once when a call will end: what comes later does not overtake it, and a call
    whose caller has given up is served all the same. So the simulation has one event for each call and not four.

    Arguments:
        group: what it is like.
        rng: for its antagonist.
    """

    __slots__ = ("_changes", "_draw", "_factor", "_fails", "_free", "_hangs", "_next_change", "_next_factor", "_works")

    def __init__(self, group: Backends, rng: random.Random) -> None:
        self._draw = _normal(group.service, group.sigma) if group.distribution == "normal" else _exponential(group)
        # When each worker is free again: a heap. Empty if there is no limit.
        self._free = [0.0] * group.workers
        self._hangs = NEVER if group.hangs is None else group.hangs
        self._fails, self._works = NEVER, NEVER
        if group.fails is not None:
            self._fails, self._works = group.fails.start, NEVER if group.fails.end is None else group.fails.end
        self._changes = _slowed(group.slow) if group.antagonist is None else _disturbed(group.antagonist, rng)
        self._factor = self._next_factor = 1.0
        self._next_change = 0.0
        self._turn()

    def refuses(self, now: float) -> bool:
        """Say whether a call that arrives now fails at once."""
        return self._fails <= now < self._works

    def serve(self, now: float, chance: float) -> float:
        """Take a call, and return the time at which it will have been served; `NEVER` if it will not.

        Arguments:
            now: when it arrives.
            chance: above 0 and below 1: where among all possible service times its own lies.
        """
        free = self._free
        start = max(now, free[0]) if free else now
        end = NEVER
        # The speed is that at the start of the service, the same to its end. A worker that will never be free again
        # is past every change.
        if start < self._hangs:
            while start >= self._next_change:
                self._turn()
            end = start + self._draw(chance) * self._factor
            if end > self._hangs:
                end = NEVER
        if free:
            heapreplace(free, end)
        return end

    def _turn(self) -> None:
        self._factor = self._next_factor
        self._next_change, self._next_factor = next(self._changes, (NEVER, 1.0))


def _exponential(group: Backends) -> Callable[[float], float]:
    mean = group.service
    log = math.log
    return lambda chance: -log(chance) * mean


def _normal(mean: float, sigma: float) -> Callable[[float], float]:
    if not sigma:
        return lambda chance: mean
    quantile = NormalDist(mean, sigma).inv_cdf
    return lambda chance: max(0.0, quantile(chance))


def _slowed(slow: tuple[Slowdown, ...]) -> Iterator[_Speed]:
    for each in slow:
        yield each.start, each.factor
        yield each.end, 1.0


def _disturbed(antagonist: Antagonist, rng: random.Random) -> Iterator[_Speed]:
    time = 0.0
    while True:
        time += rng.expovariate(1 / (antagonist.every - antagonist.lasts))
        yield time, rng.uniform(antagonist.least, antagonist.most)
        time += rng.expovariate(1 / antagonist.lasts)
        yield time, 1.0
