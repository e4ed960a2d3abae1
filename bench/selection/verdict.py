"""The figures that the benchmark is about, with their bars; what a call costs is in `cost`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from ..report import Figure
from .contenders import CORE
from .measure import Several

__all__ = ["figures"]

OURS = "adaptive"
P2C = "power_of_two"
RR = "round_robin"


def figures(results: Mapping[str, Mapping[str, Several]]) -> list[Figure]:
    """Return what can be said of the results, by scenario and contender: less, if not everything was measured."""
    found = [
        _ratio(results, "slow", CORE, 0.15),
        _ratio(results, "slow", P2C, 0.5),
        _failed(results, "hung", 0.1),
        _failed(results, "failing", 0.2),
        _ratio(results, "equal", RR, 1.03),
        _ratio(results, "equal", CORE, 1.03),
        _failed(results, "restart", None),
    ]
    return [figure for figure in found if figure is not None]


def _ratio(results: Mapping[str, Mapping[str, Several]], scenario: str, other: str, bar: float) -> Figure | None:
    measured = results.get(scenario, {})
    if OURS not in measured or other not in measured:
        return None
    # Both had the same calls to make within a round, so a pair differs by less than two rounds of one do.
    ratios = measured[OURS].ratios(measured[other], lambda run: run.latency(99))
    note = f"{min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} rounds"
    return Figure(f"{scenario}: p99, {OURS} / {other}", statistics.median(ratios), "×", bar, note=note)


def _failed(results: Mapping[str, Mapping[str, Several]], scenario: str, bar: float | None) -> Figure | None:
    measured = results.get(scenario, {}).get(OURS)
    if measured is None:
        return None
    # Of all rounds together: the median of a few would not see the worst.
    note = f"{measured.errors.total()} of {measured.calls}"
    return Figure(f"{scenario}: calls that failed, {OURS}", 100 * measured.failed, "%", bar, note=note)
