"""Callers that each make one call after the other, in threads or in tasks, and what came of their calls."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import psutil

__all__ = ["OK", "Load", "Sample", "name_of", "percentile", "tasks", "threads"]

OK = "OK"


@dataclass(frozen=True, slots=True)
class Sample:
    """One call that has ended.

    Attributes:
        began, ended: seconds after the load began.
        code: the name of its status, or of the exception if that is none of grpc's.
    """

    began: float
    ended: float
    code: str


@dataclass(slots=True)
class Load:
    """What a load came to. Calls of the warm-up, and those that ended after the end, count where failures are counted.

    Attributes:
        counts: of all calls, by code.
        samples: all calls, unless they were not to be kept.
        good: how many ended well within the measurement.
        most: how many were under way at once, at most.
        reasons: what the first failure of each code said.
        begin, end: of the measurement, in seconds after the load began.
        cpu, server_cpu: seconds of processor time between these, of this process and of the server's.
    """

    counts: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    good: int = 0
    most: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    begin: float = 0.0
    end: float = 0.0
    cpu: float = 0.0
    server_cpu: float = 0.0

    @property
    def calls(self) -> int:
        """All calls."""
        return self.counts.total()

    @property
    def errors(self) -> dict[str, int]:
        """How many calls failed, by status code."""
        return {code: count for code, count in self.counts.items() if code != OK}

    def note(self, sample: Sample, error: Exception | None) -> None:
        """Count a call, and what the first failure of its kind said."""
        self.counts[sample.code] += 1
        if error is not None:
            self.reasons.setdefault(sample.code, str(getattr(error, "details", lambda: error)()))

    def latencies(self, since: float, until: float) -> list[float]:
        """Return the latencies of the good calls that began within so many seconds after the load did, ascending."""
        return sorted(s.ended - s.began for s in self.samples if s.code == OK and since <= s.began < until)

    def summary(self) -> dict[str, Any]:
        """Return what is to be said of it, as JSON can hold it."""
        seconds = self.end - self.begin
        latencies = self.latencies(self.begin, self.end)
        return {
            "calls": self.calls,
            "failed": sum(self.errors.values()),
            "errors": self.errors,
            "reasons": self.reasons,
            "goodput": self.good / seconds,
            "cpu": self.cpu / seconds,
            "cpu_per_call": self.cpu / max(self.good, 1),
            "server_cpu": self.server_cpu / seconds,
            "p50": percentile(latencies, 50),
            "p99": percentile(latencies, 99),
        }


def percentile(ascending: Sequence[float], percent: float) -> float | None:
    """Return the least value that so many per cent of the values do not exceed; None if there are no values."""
    if not ascending:
        return None
    rank = -(-len(ascending) * percent // 100)
    return ascending[max(int(rank), 1) - 1]


class _Meter:
    """Times a load, and takes down its calls. Callers may be threads."""

    def __init__(self, warm_up: float, seconds: float, server: int | None, keep: bool, callers: int) -> None:
        self.load = Load(most=callers)
        self.until = warm_up + seconds
        self._server = psutil.Process(server) if server else None
        self._keep = keep
        self._lock = threading.Lock()
        self._good = 0
        self._epoch = 0.0
        self._cpu = self._server_cpu = 0.0

    def now(self) -> float:
        return time.monotonic() - self._epoch

    def left(self) -> float:
        return max(self.until - self.now(), 0)

    def start(self) -> None:
        self._epoch = time.monotonic()

    # On a crowded machine whoever calls these wakes late; what is measured is then as much longer, or shorter.

    def begin(self) -> None:
        self.load.begin, self._good = self.now(), self.load.counts[OK]
        self._cpu, self._server_cpu = self._spent()

    def finish(self) -> None:
        self.load.end, self.load.good = self.now(), self.load.counts[OK] - self._good
        cpu, server_cpu = self._spent()
        self.load.cpu, self.load.server_cpu = cpu - self._cpu, server_cpu - self._server_cpu

    def _spent(self) -> tuple[float, float]:
        if self._server is None:
            return time.process_time(), 0.0
        times = self._server.cpu_times()
        return time.process_time(), times.user + times.system

    def note(self, began: float, error: Exception | None) -> None:
        sample = Sample(began, self.now(), OK if error is None else name_of(error))
        with self._lock:
            self.load.note(sample, error)
            if self._keep:
                self.load.samples.append(sample)


def name_of(error: Exception) -> str:
    """Return the name of the status that an error carries, or of the error if it carries none."""
    code = error.code() if isinstance(error, grpc.RpcError) and hasattr(error, "code") else None
    return type(error).__name__ if code is None else str(code.name)


def threads(
    calls: Sequence[Callable[[], object]],
    seconds: float,
    *,
    warm_up: float = 1.0,
    server: int | None = None,
    keep: bool = True,
) -> Load:
    """Make each call over and over, all at the same time, each in a thread of its own; return when all have ended.

    Arguments:
        seconds: how long, after the warm-up.
        server: its process id, to see how busy it is.
        keep: keep every call. They take memory, a hundred bytes or so each.
    """
    meter = _Meter(warm_up, seconds, server, keep, len(calls))
    go = threading.Event()

    def work(call: Callable[[], object]) -> None:
        go.wait()
        while (began := meter.now()) < meter.until:
            try:
                call()
            except Exception as error:
                meter.note(began, error)
            else:
                meter.note(began, None)

    callers = [threading.Thread(target=work, args=(call,)) for call in calls]
    for caller in callers:
        caller.start()
    meter.start()
    go.set()
    time.sleep(warm_up)
    meter.begin()
    time.sleep(meter.left())
    meter.finish()
    for caller in callers:
        caller.join()
    return meter.load


async def tasks(
    calls: Sequence[Callable[[], Awaitable[object]]],
    seconds: float,
    *,
    warm_up: float = 1.0,
    server: int | None = None,
    keep: bool = True,
) -> Load:
    """Make each call over and over, all at the same time, each in a task of its own; as `threads`."""
    meter = _Meter(warm_up, seconds, server, keep, len(calls))
    go = asyncio.Event()

    async def work(call: Callable[[], Awaitable[object]]) -> None:
        await go.wait()
        while (began := meter.now()) < meter.until:
            try:
                await call()
            except Exception as error:
                meter.note(began, error)
            else:
                meter.note(began, None)

    callers = [asyncio.create_task(work(call)) for call in calls]
    await asyncio.sleep(0)
    meter.start()
    go.set()
    await asyncio.sleep(warm_up)
    meter.begin()
    await asyncio.sleep(meter.left())
    meter.finish()
    await asyncio.gather(*callers)
    return meter.load
