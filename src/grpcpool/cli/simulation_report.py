"""What the simulation showed: as tables, and as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import grpcpool

from ..simulation.figures import CURVE, Figures, joined
from ..simulation.scenario import Scenario
from .report import milliseconds

__all__ = ["LEGEND", "Compared", "listing", "table", "to_json"]

LEGEND = (
    "Median of all seeds. Latencies in ms, timed-out calls included; ratio: p99 to that of the first row; peak: the "
    "most that a backend got of its fair share of the calls in any second."
)


@dataclass(frozen=True)
class Compared:
    """One scenario, and what each strategy made of it.

    Attributes:
        scenario: what was simulated.
        runs: by strategy, one for each seed.
        medians: of those runs, by strategy.
    """

    scenario: Scenario
    runs: Mapping[str, Sequence[Figures]]
    medians: Mapping[str, Figures] = field(init=False)

    def __post_init__(self) -> None:
        medians = {strategy: joined(figures) for strategy, figures in self.runs.items()}
        object.__setattr__(self, "medians", medians)


def listing(scenarios: Iterable[Scenario]) -> RenderableType:
    """Return a line for each scenario."""
    lines = Table(box=None, pad_edge=False, show_header=False)
    lines.add_column(style="bold")
    lines.add_column(overflow="fold")
    for scenario in scenarios:
        lines.add_row(Text(scenario.name), Text(scenario.title))
    return lines


def table(compared: Compared) -> RenderableType:
    """Return a scenario's table, for rich to print: a row for each strategy."""
    medians = compared.medians
    first = next(iter(medians.values())).latency
    rows = Table(
        title=Text(compared.scenario.heading),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    rows.add_column("strategy", overflow="fold")
    # Fits into 80 columns, what a pipe is taken to have.
    for heading in ("errors %", "> 1 s %", "p50", "p99", "p99.9", "ratio", "peak"):
        rows.add_column(heading, justify="right", no_wrap=True)
    for strategy, figures in medians.items():
        latency = figures.latency
        rows.add_row(
            Text(strategy),
            _percent(figures.error_share),
            _percent(figures.over_1s),
            milliseconds(latency.p50 if latency else None),
            milliseconds(latency.p99 if latency else None),
            milliseconds(latency.p999 if latency else None),
            f"{latency.p99 / first.p99:.3f}" if latency and first else "-",
            f"{figures.peak_share:.2f}",
        )
    complaints = [
        Text(f"{strategy}: the strategy failed: {problem}", style="red")
        for strategy, figures in medians.items()
        for problem in figures.strategy_errors
    ]
    return Group(rows, *complaints)


def _percent(share: float) -> str:
    return f"{share * 100:.3f}"


def to_json(results: Iterable[Compared], seeds: Iterable[int]) -> str:
    """Return all figures as JSON text; durations are in seconds, shares below 1."""
    document: dict[str, Any] = {
        "versions": {"grpcpool": grpcpool.__version__, "python": platform.python_version()},
        "seeds": list(seeds),
        "curve_percentiles": CURVE,
        "scenarios": [
            {
                "scenario": asdict(compared.scenario),
                "strategies": [
                    {
                        "strategy": strategy,
                        "median": _figures(compared.medians[strategy]),
                        "runs": [_figures(figures) for figures in runs],
                    }
                    for strategy, runs in compared.runs.items()
                ],
            }
            for compared in results
        ],
    }
    return json.dumps(document) + "\n"


def _figures(figures: Figures) -> dict[str, Any]:
    return {**asdict(figures), "error_share": figures.error_share}
