"""A strategy on the bench: real members and leases, but no network, no time and no chance of its own."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import NoReturn

from ..core.generation import Generation, GenerationBuilder
from ..core.lease import Lease
from ..core.member import Member
from ..strategies import Strategy, resolve
from .clock import FakeClock

__all__ = ["StrategyHarness"]


class StrategyHarness:
    """Drives a strategy as a pool does, one call at a time.

        harness = StrategyHarness("power_of_two", 3, seed=1)
        member = harness.pick()
        harness.done(member, latency=0.010, ok=True)

    Everything the strategy sees is what it sees in a pool: members with leases, generations that change, the pool's way
    of dealing with a strategy that fails (here that is raised as an error).

    Arguments:
        strategy: a name, an entry point's name, or a strategy.
        size: how many members, 1 or more; their indices are 0 to ``size - 1``.
        seed: for the random choices; the same seed gives the same picks.
        clock: the time in seconds; default a `FakeClock`, which is then found as `clock`.

    Attributes:
        clock: the time.
        members: by index.
    """

    def __init__(
        self, strategy: str | Strategy, size: int, *, seed: int = 0, clock: Callable[[], float] | None = None
    ) -> None:
        self.clock = FakeClock() if clock is None else clock
        self.members = tuple(Member(index, f"member-{index}", born=self.clock()) for index in range(size))
        self._running: list[deque[Lease]] = [deque() for _ in range(size)]
        self._builder = GenerationBuilder(
            resolve(strategy),
            rng=random.Random(seed),
            clock=self.clock,
            not_connected=self._empty,
            no_channel=self._empty,
            on_error=self._failed,
        )
        self._generation: Generation
        self.connect(range(size))

    def connect(self, indices: Iterable[int]) -> None:
        """Let exactly these members be connected: what a pool does when one comes or goes."""
        self._generation = self._builder.build(tuple(self.members[index] for index in sorted(set(indices))), ())

    def pick(self) -> int:
        """Return the index of the member that serves the next call, and start the call there."""
        member = self._generation.pick()
        self._running[member.id].append(Lease(member, self.clock()))
        return member.id

    def done(self, index: int, latency: float | None = None, ok: bool = True) -> None:
        """End the oldest call that runs on the member `index`.

        Arguments:
            latency: how long it took in seconds; None: what the clock says.
            ok: it succeeded.
        """
        if not self._running[index]:
            raise ValueError(f"no call is running on member {index}; in flight: {self.in_flight()}")
        lease = self._running[index].popleft()
        now = self.clock()
        if latency is not None:
            lease.started = now - latency
        if ok:
            lease.succeed(now)
        else:
            lease.fail(now)

    def in_flight(self) -> tuple[int, ...]:
        """Return how many calls run on each member."""
        return tuple(member.in_flight for member in self.members)

    @staticmethod
    def _empty() -> NoReturn:
        raise ValueError("no member is connected")

    @staticmethod
    def _failed(problem: str) -> None:
        raise AssertionError(f"the strategy failed: {problem}")
