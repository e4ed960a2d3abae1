"""Pictures of what the simulation showed. Needs the extra ``plot``."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .figures import CURVE, Figures
from .scenario import Scenario

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("drawing needs matplotlib: pip install 'grpcpool[plot]'") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot"]

# Inches: of the figure's width, and of each scenario's height.
WIDTH, HEIGHT = 12.0, 4.2

# The percentiles at which the axis has marks; the last that can be drawn is the one before 100.
MARKS = (0, 50, 90, 99, 99.9)


def plot(results: Sequence[tuple[Scenario, Mapping[str, Figures]]], path: str | os.PathLike[str]) -> None:
    """Draw latencies and traffic over time, a row for each scenario, and write them to a file.

    Arguments:
        results: scenarios, and the figures by strategy.
        path: of the file, which will be a PNG.
    """
    # Drawn without pyplot, which would look for a screen and keep the figure.
    figure = Figure(figsize=(WIDTH, HEIGHT * len(results)), layout="constrained")
    rows = figure.subplots(len(results), 2, squeeze=False)
    for (scenario, strategies), (left, right) in zip(results, rows, strict=True):
        _latencies(left, scenario, strategies)
        _traffic(right, scenario, strategies)
    figure.savefig(path, format="png")


def _latencies(axes: Axes, scenario: Scenario, strategies: Mapping[str, Figures]) -> None:
    for strategy, figures in strategies.items():
        if figures.latency is not None:
            points = zip(CURVE, figures.latency.curve, strict=True)
            drawn = [(_nines(percent), value * 1000) for percent, value in points if percent < 100]
            axes.plot([x for x, _ in drawn], [y for _, y in drawn], label=strategy)
    axes.set_title(scenario.heading, loc="left", fontsize="medium")
    axes.set_yscale("log")
    axes.set_xticks([_nines(percent) for percent in MARKS], [f"{percent:g}" for percent in MARKS])
    axes.set_xlabel("percentile")
    axes.set_ylabel("latency in ms")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="small")


def _nines(percent: float) -> float:
    """Spread the tail out: 90, 99 and 99.9 % are as far from each other as 0 and 90 %."""
    return -math.log10(1 - percent / 100)


def _traffic(axes: Axes, scenario: Scenario, strategies: Mapping[str, Figures]) -> None:
    # Groups after the first are those that something is the matter with. Where all are alike, what matters is how
    # much the busiest gets.
    watched = range(scenario.backends[0].count, scenario.size)
    for figures in strategies.values():
        shares = [sum(second[number] for number in watched) if watched else max(second) for second in figures.traffic]
        # The last step needs an end.
        axes.step(range(len(shares) + 1), [share * 100 for share in (*shares, shares[-1])], where="post")
    last = f"last {len(watched)}" if len(watched) > 1 else "last"
    axes.set_title(f"traffic to the {last if watched else 'busiest'} of {scenario.size} backends", fontsize="medium")
    axes.set_xlabel("seconds")
    axes.set_ylabel("% of the calls")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
