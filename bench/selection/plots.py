"""One picture for each scenario. Needs matplotlib."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .measure import Several, percentile
from .scenarios import Scenario

__all__ = ["check", "draw"]

# From the median to one call in a thousand, evenly on a logarithmic scale: the share of the calls that are slower.
SLOWER = [10 ** (-exponent / 20) * 0.5 for exponent in range(55)]
MILLISECONDS = [digit * 10**power for power in range(5) for digit in (1, 2, 5)]
TICKS = {0.5: "p50", 0.1: "p90", 0.01: "p99", 0.001: "p99.9"}


def check() -> None:
    """Raise ImportError if nothing can be drawn: better before the measurement than after it."""
    importlib.import_module("matplotlib")


def draw(scenario: Scenario, results: Mapping[str, Several], folder: Path) -> Path:
    """Draw the latencies of all contenders, and next to them what else the scenario is about; return the file."""
    # Without pyplot there is no state to clean up, and no screen is asked for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    colours = {name: f"C{number}" if number < 10 else "black" for number, name in enumerate(results)}
    _latencies(left, results, colours)
    if scenario.name == "equal":
        _bars(right, results, colours, "processor time per call, µs", lambda run: run.cpu * 1e6)
    elif any(several.errors for several in results.values()):
        _bars(right, results, colours, "calls that failed, %", lambda run: run.failed * 100)
    else:
        _bars(right, results, colours, "calls to that backend, or lost, %", lambda run: (run.special or 0.0) * 100)
    rounds = max(len(several.runs) for several in results.values())
    figure.suptitle(f"{scenario.title[0].upper()}{scenario.title[1:]}; load {scenario.load:.2f}, rounds: {rounds}")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"selection-{scenario.name}.png"
    figure.savefig(file, dpi=120)
    return file


def _latencies(axes: Any, results: Mapping[str, Several], colours: Mapping[str, str]) -> None:
    for name, several in results.items():
        # All rounds together: a tail wants all the calls it can get.
        latencies = sorted(latency for run in several.runs for latency in run.latencies)
        values = [percentile(latencies, 100 * (1 - share)) * 1e3 for share in SLOWER]
        style = "-" if name == "adaptive" else "--"
        axes.plot(SLOWER, values, style, color=colours[name], label=name, linewidth=2.5 if style == "-" else 1.5)
    axes.set(xscale="log", yscale="log", xlim=(0.5, 0.001), ylabel="latency, ms (calls answered or timed out)")
    axes.set_xticks(list(TICKS), list(TICKS.values()))
    axes.set_yticks(MILLISECONDS, [f"{tick:g}" for tick in MILLISECONDS])
    lowest, highest = axes.dataLim.intervaly
    axes.set_ylim(lowest * 0.9, highest * 1.1)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _bars(axes: Any, results: Mapping[str, Several], colours: Mapping[str, str], title: str, of: Any) -> None:
    names = list(results)[::-1]
    spreads = [results[name].spread(of) for name in names]
    middles = [middle for middle, _, _ in spreads]
    whiskers = [
        [middle - least for middle, least, _ in spreads],
        [greatest - middle for middle, _, greatest in spreads],
    ]
    bars = axes.barh(names, middles, xerr=whiskers, color=[colours[name] for name in names], capsize=3)
    axes.bar_label(bars, fmt="{:.3g}", padding=4)
    axes.margins(x=0.15)
    axes.set(xlabel=f"{title} (median, least, greatest)", xlim=(0, None))
