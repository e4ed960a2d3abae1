"""A strategy on the bench: real members and leases, but no network, no time and no chance of its own."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from ..core.generation import Generation, GenerationBuilder
from ..core.lease import Lease
from ..core.member import Member
from ..endpoint import Endpoint
from ..keys import Key, affinity
from ..strategies import Strategy, resolve
from .clock import FakeClock

__all__ = ["StrategyHarness"]


class StrategyHarness:
    """Drives a strategy as a pool does, one call at a time.

        harness = StrategyHarness("power_of_two", 3, seed=1)
        member = harness.pick()
        harness.done(member, latency=0.010, ok=True)

    Everything the strategy sees is what it sees in a pool: members with leases, generations that change, meters that
    are told, affinity keys, the pool's way of dealing with a strategy that fails (here that is raised as an error).
    Thread-safe but for `connect`, as far as the strategy is.

    Arguments:
        strategy: a name, an entry point's name, or a strategy.
        size: how many members, 1 or more; their indices are 0 to ``size - 1``.
        seed: for the random choices; the same seed gives the same picks.
        clock: the time in seconds; default a `FakeClock`, which is then found as `clock`.
        endpoints: what each member connects to, by index; several may share one. Default: each has its own.
        weights: of each member's endpoint, by index; members that share an endpoint have one weight. Default 1.

    Raises:
        ConfigError: there is no such strategy, or a weight is not a number above 0.
        ValueError: there are more or fewer endpoints or weights than members, or two weights for one endpoint.

    Attributes:
        clock: the time.
        members: by index.
    """

    def __init__(
        self,
        strategy: str | Strategy,
        size: int,
        *,
        seed: int = 0,
        clock: Callable[[], float] | None = None,
        endpoints: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.clock = FakeClock() if clock is None else clock
        self.members = tuple(
            Member(index, endpoint.target, weight=endpoint.weight, born=self.clock())
            for index, endpoint in enumerate(_endpoints(size, endpoints, weights))
        )
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

    def pick(self, key: Key | None = None, timed: bool = True) -> int:
        """Return the index of the member that serves the next call, and start the call there.

        Arguments:
            key: the call's affinity key; None: the one that is in force (see `grpcpool.affinity`), if any.
            timed: it is a unary call, so that how long it takes counts; False: a stream.

        Raises:
            AssertionError: the strategy broke its contract.
            TypeError, ValueError: `key` is not text or bytes, or is empty.
        """
        with contextlib.nullcontext() if key is None else affinity(key):
            member = self._generation.pick()
        self._running[member.id].append(Lease.on(member, self.clock(), timed))
        return member.id

    def done(self, index: int, latency: float | None = None, ok: bool = True) -> None:
        """End the oldest call that runs on the member `index`.

        Arguments:
            latency: how long it took in seconds; None: what the clock says. Means nothing for a stream.
            ok: it succeeded; False: it failed, with a status that the member may be to blame for.

        Raises:
            ValueError: no call runs there.
        """
        lease, now = self._end(index, latency)
        if ok:
            lease.succeed(now)
        else:
            lease.fail(now)

    def drop(self, index: int, latency: float | None = None) -> None:
        """Let the caller cancel, or abandon, the oldest call that runs on the member `index`.

        Arguments:
            latency: how long it had taken by then; as for `done`.

        Raises:
            ValueError: no call runs there.
        """
        lease, now = self._end(index, latency)
        lease.release(now)

    def _end(self, index: int, latency: float | None) -> tuple[Lease, float]:
        try:
            lease = self._running[index].popleft()
        except IndexError:
            raise ValueError(f"no call is running on member {index}; in flight: {self.in_flight()}") from None
        now = self.clock()
        if latency is not None:
            lease.started = now - latency
        return lease, now

    def in_flight(self) -> tuple[int, ...]:
        """Return how many calls run on each member."""
        return tuple(member.in_flight for member in self.members)

    @staticmethod
    def _empty() -> NoReturn:
        raise ValueError("no member is connected")

    @staticmethod
    def _failed(problem: str) -> None:
        raise AssertionError(f"the strategy failed: {problem}")


def _endpoints(size: int, targets: Sequence[str] | None, weights: Sequence[float] | None) -> list[Endpoint]:
    """Return what each member connects to."""
    targets = [f"member-{index}" for index in range(size)] if targets is None else targets
    weights = [1] * size if weights is None else weights
    for what, given in (("endpoints", targets), ("weights", weights)):
        if len(given) != size:
            raise ValueError(f"{what}: there are {len(given)} for {size} members")
    endpoints = [Endpoint(target, weight) for target, weight in zip(targets, weights, strict=True)]
    # As in a pool, where a weight is an endpoint's and not a member's.
    if len(set(endpoints)) > len(set(targets)):
        raise ValueError("weights: members that share an endpoint must have the same")
    return endpoints
