"""Makes calls and measures them: the same for every contender."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc

__all__ = ["DEADLINE", "Latency", "Load", "Measured", "latency_of"]

# What every call is granted, in seconds. Fifty times the slow server's delay: only a call that hangs reaches it.
DEADLINE = 2.0

# How many calls of each worker make up the latency that is shown on the way.
RECENT = 50

PAYLOAD = b"x" * 100


@dataclass(frozen=True, slots=True)
class Latency:
    """How long successful calls took, in seconds."""

    p50: float
    p99: float
    slowest: float


def latency_of(durations: Sequence[float]) -> Latency | None:
    """Return the percentiles of `durations`, or None if there are none."""
    if not durations:
        return None
    # `quantiles` wants two values; one alone is every percentile.
    cuts = statistics.quantiles(durations, n=100, method="inclusive") if len(durations) > 1 else [durations[0]] * 99
    return Latency(p50=cuts[49], p99=cuts[98], slowest=max(durations))


@dataclass(frozen=True, slots=True)
class Measured:
    """What a load came to.

    Attributes:
        seconds: from the first call's start to the last one's end.
        succeeded: calls that ended OK.
        errors: the others, by status code.
        latency: of the successful ones; None if there was none.
    """

    seconds: float
    succeeded: int
    errors: dict[str, int]
    latency: Latency | None

    @property
    def calls(self) -> int:
        """All calls that were made."""
        return self.succeeded + sum(self.errors.values())


@dataclass(slots=True)
class _Tally:
    """What one worker has seen; written by that worker alone."""

    durations: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    busy: bool = False


class Load:
    """Workers that call one after the other, each as soon as its last call has ended.

    Begins with `start` and ends with `stop`, for good. The other methods may be called from anywhere meanwhile.

    Arguments:
        call: a unary multicallable.
        workers: how many threads.
    """

    def __init__(self, call: Callable[..., Any], workers: int) -> None:
        self._call = call
        self._stop = threading.Event()
        self._tallies = [_Tally() for _ in range(workers)]
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="load")
        self._futures: list[Future[None]] = []
        self._began = time.perf_counter()

    def start(self) -> None:
        """Let the workers begin."""
        self._began = time.perf_counter()
        for tally in self._tallies:
            self._futures.append(self._pool.submit(self._work, tally))

    def _work(self, tally: _Tally) -> None:
        call = self._call
        while not self._stop.is_set():
            tally.busy = True
            started = time.perf_counter()
            try:
                call(PAYLOAD, timeout=DEADLINE)
            except grpc.RpcError as error:
                tally.errors.append(error.code().name)
            else:
                tally.durations.append(time.perf_counter() - started)
            tally.busy = False

    def calls(self) -> int:
        """Return how many calls have ended."""
        return sum(len(tally.durations) + len(tally.errors) for tally in self._tallies)

    def errors(self) -> dict[str, int]:
        """Return how many calls have failed, by status code."""
        return dict(Counter(code for tally in self._tallies for code in list(tally.errors)))

    def in_flight(self) -> int:
        """Return how many calls are running."""
        return sum(tally.busy for tally in self._tallies)

    def recent(self) -> Latency | None:
        """Return the latency of the last few calls."""
        return latency_of([duration for tally in self._tallies for duration in tally.durations[-RECENT:]])

    def stop(self) -> Measured:
        """Let running calls end, and return what was measured. Blocks for `DEADLINE` at the most.

        Raises:
            Exception: what a call raised that was no `grpc.RpcError`.
        """
        self._stop.set()
        self._pool.shutdown()
        seconds = time.perf_counter() - self._began
        for future in self._futures:
            future.result()
        durations = [duration for tally in self._tallies for duration in tally.durations]
        return Measured(seconds, len(durations), self.errors(), latency_of(durations))
