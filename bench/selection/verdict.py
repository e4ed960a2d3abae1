"""The figures that the benchmark is about, with their bars."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from ..report import Figure
from .contenders import CORE
from .measure import Run, Several

__all__ = ["figures"]

OURS = "adaptive"
P2C = "power_of_two"
RR = "round_robin"


def p99(run: Run) -> float:
    """The 99th percentile of the latency."""
    return run.latency(99)


def cpu(run: Run) -> float:
    """Processor time per call."""
    return run.cpu


def figures(results: Mapping[str, Mapping[str, Several]]) -> list[Figure]:
    """Return what can be said of the results, by scenario and contender: less, if not everything was measured."""
    found = [
        _ratio(results, "slow", p99, "p99", CORE, 0.15),
        _ratio(results, "slow", p99, "p99", P2C, 0.5),
        _failed(results, "hung", 0.1),
        _failed(results, "failing", 0.2),
        _ratio(results, "equal", p99, "p99", RR, 1.03),
        _ratio(results, "equal", p99, "p99", CORE, 1.03),
        _ratio(results, "equal", cpu, "CPU per call", RR, 1.03),
        _ratio(results, "equal", cpu, "CPU per call", CORE, 1.03),
        _failed(results, "restart", None),
    ]
    return [figure for figure in found if figure is not None]


def _ratio(
    results: Mapping[str, Mapping[str, Several]],
    scenario: str,
    of: Callable[[Run], float],
    what: str,
    other: str,
    bar: float,
) -> Figure | None:
    measured = results.get(scenario, {})
    if OURS not in measured or other not in measured:
        return None
    # Both had the same calls to make within a round, so a pair differs by less than two rounds of one do.
    ratios = measured[OURS].ratios(measured[other], of)
    name = f"{scenario}: {what}, {OURS} / {other if other == CORE else f'grpcpool {other}'}"
    note = f"{min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} rounds"
    return Figure(name, statistics.median(ratios), "×", bar, note=note)


def _failed(results: Mapping[str, Mapping[str, Several]], scenario: str, bar: float | None) -> Figure | None:
    measured = results.get(scenario, {}).get(OURS)
    if measured is None:
        return None
    # Of all rounds together: the median of a few would not see the worst.
    note = f"{measured.errors.total()} of {measured.calls}"
    return Figure(f"{scenario}: calls that failed, {OURS}", 100 * measured.failed, "%", bar, note=note)
