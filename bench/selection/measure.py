"""One contender in one scenario, once: what came out, and what to say of several times."""

from __future__ import annotations

import asyncio
import gc
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc
import psutil

from ..fleet import Fleet
from .contenders import Contender
from .load import OK, Outcome, drive, plan
from .scenarios import SPECIAL, Scenario
from .servers import backends, disturb

__all__ = ["PERCENTILES", "Run", "Several", "measure", "percentile"]

PERCENTILES = (50.0, 99.0, 99.9)
TIMED_OUT = grpc.StatusCode.DEADLINE_EXCEEDED.name


@dataclass(frozen=True, slots=True)
class Run:
    """One contender in one round.

    Attributes:
        round: counted from 0. Runs of one round had the same calls to make.
        latencies: in seconds, ascending, of the calls that succeeded or ran out of time: one that was refused at once
            was not served fast.
        calls: all of them.
        errors: how many failed, by status code.
        reasons: what the first of each code said, warm-up included.
        special: the share of the calls that went to the special backend, or were answered by nobody; None if there is
            no such backend.
        cpu: seconds of processor time per call, of the measuring process: the load included, the backends not.
        late: the 99th percentile of how late calls were made, in seconds; if it is no small part of the latencies, the
            measuring process could not keep up.
        busy: how much of all cores was in use, by anybody, in per cent.
    """

    round: int
    latencies: list[float]
    calls: int
    errors: dict[str, int]
    reasons: dict[str, str]
    special: float | None
    cpu: float
    late: float
    busy: float

    @property
    def failed(self) -> float:
        """The share of the calls that failed."""
        return sum(self.errors.values()) / self.calls

    def latency(self, percent: float) -> float:
        """Return a percentile of the latencies, in seconds."""
        return percentile(self.latencies, percent)


class Several:
    """The runs of one contender in one scenario, by round."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs = sorted(runs, key=lambda run: run.round)

    def spread(self, of: Callable[[Run], float]) -> tuple[float, float, float]:
        """Return the median of something, its least and its greatest value."""
        values = [of(run) for run in self.runs]
        return statistics.median(values), min(values), max(values)

    def ratios(self, other: Several, of: Callable[[Run], float]) -> list[float]:
        """Return how many times the other's it is, by round."""
        return [of(mine) / of(theirs) for mine, theirs in zip(self.runs, other.runs, strict=True)]

    @property
    def calls(self) -> int:
        """All calls of all rounds."""
        return sum(run.calls for run in self.runs)

    @property
    def errors(self) -> Counter[str]:
        """How many of them failed, by status code."""
        return sum((Counter(run.errors) for run in self.runs), Counter())

    @property
    def failed(self) -> float:
        """The share of them that failed."""
        return self.errors.total() / self.calls


def percentile(ascending: Sequence[float], percent: float) -> float:
    """Return the least value that so many per cent of the values do not exceed; infinite if there are no values."""
    if not ascending:
        return float("inf")
    rank = -(-len(ascending) * percent // 100)
    return ascending[max(int(rank), 1) - 1]


def measure(scenario: Scenario, contender: Contender, number: int) -> Run:
    """Run one contender against fresh backends in round `number`, with fresh channels."""
    with backends(scenario) as fleet:
        return asyncio.run(_measure(scenario, contender, number, fleet))


async def _measure(scenario: Scenario, contender: Contender, number: int, fleet: Fleet) -> Run:
    shots = plan(scenario, f"{scenario.name} {number}")
    begun, over = asyncio.Event(), asyncio.Event()

    async def disturb_them() -> None:
        await begun.wait()
        psutil.cpu_percent()
        await disturb(fleet, scenario.disturbance, over)

    async with AsyncExitStack() as stack:
        calls = []
        for client in range(scenario.clients):
            opened = contender.open(fleet.targets, number * scenario.clients + client)
            calls.append(await stack.enter_async_context(opened))
        gc.collect()
        disturbing = asyncio.create_task(disturb_them())
        outcome = await drive(shots, calls, scenario.deadline, begun)
        over.set()
        await disturbing
        busy = psutil.cpu_percent()
    return _summary(scenario, number, outcome, busy)


def _summary(scenario: Scenario, number: int, outcome: Outcome, busy: float) -> Run:
    samples = outcome.samples
    special = None
    if scenario.has_special:
        # Where nobody answered, nobody said who. Where the machine keeps up, only the special backend leaves calls
        # without an answer.
        to_it = sum(sample.backend == SPECIAL or (sample.backend is None and sample.code != OK) for sample in samples)
        special = to_it / len(samples)
    return Run(
        round=number,
        latencies=sorted(sample.latency for sample in samples if sample.code in (OK, TIMED_OUT)),
        calls=len(samples),
        errors=dict(Counter(sample.code for sample in samples if sample.code != OK)),
        reasons=outcome.reasons,
        special=special,
        cpu=outcome.cpu / len(samples),
        late=percentile(sorted(outcome.late), 99),
        busy=busy,
    )
