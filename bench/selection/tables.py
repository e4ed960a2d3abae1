"""What is printed for each scenario: one line for each contender."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .measure import PERCENTILES, Run, Several
from .scenarios import BACKENDS, WORKERS, Scenario

__all__ = ["heading", "table"]


def heading(scenario: Scenario) -> str:
    """Return what the scenario is, in a few lines."""
    clients = "one client" if scenario.clients == 1 else f"{scenario.clients} clients"
    return (
        f"{scenario.name}: {scenario.title}\n"
        f"{BACKENDS} backends of {WORKERS} workers, {clients}, {scenario.rate:g} calls per second in all, "
        f"load {scenario.load:.2f}, deadline {scenario.deadline:g} s"
    )


def table(scenario: Scenario, results: Mapping[str, Several]) -> str:
    """Return the table: medians over the rounds, with the least and the greatest value if there were several."""
    columns = _columns(scenario)
    rows = [["contender", *(column.head for column in columns), "errors"]]
    for name, several in results.items():
        counted = ", ".join(f"{code} {count}" for code, count in several.errors.most_common())
        errors = f"{counted or 'none'} of {several.calls}"
        rows.append([name, *(column.cell(several) for column in columns), errors])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


@dataclass(frozen=True, slots=True)
class _Column:
    head: str
    of: Callable[[Run], float]
    digits: int

    def cell(self, several: Several) -> str:
        middle, least, greatest = (f"{value:.{self.digits}f}" for value in several.spread(self.of))
        return middle if least == greatest else f"{middle} ({least}..{greatest})"


def _columns(scenario: Scenario) -> list[_Column]:
    columns = [_Column(f"p{percent:g} ms", _latency(percent), 0) for percent in PERCENTILES]
    columns.append(_Column("failed %", lambda run: run.failed * 100, 2))
    if scenario.has_special:
        columns.append(_Column("to it, or lost %", lambda run: (run.special or 0.0) * 100, 2))
    columns.append(_Column("CPU µs", lambda run: run.cpu * 1e6, 0))
    columns.append(_Column("late ms", lambda run: run.late * 1e3, 1))
    columns.append(_Column("busy %", lambda run: run.busy, 0))
    return columns


def _latency(percent: float) -> Callable[[Run], float]:
    return lambda run: run.latency(percent) * 1e3


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *middle, last = row
    cells = [cell.rjust(width) for cell, width in zip(middle, widths[1:], strict=False)]
    return "  ".join([first.ljust(widths[0]), *cells, last])
