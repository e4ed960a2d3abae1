"""What is written down: everything that the tables say, by round, and what it depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from .. import report
from .contenders import CLIENT_KIT, left_out
from .measure import PERCENTILES, Run, Several
from .scenarios import BACKENDS, SERVICE, WORKERS, Scenario

__all__ = ["record"]


def record(
    scenarios: Sequence[Scenario],
    results: Mapping[str, Mapping[str, Several]],
    costs: Mapping[str, Sequence[float]],
    figures: Sequence[report.Figure],
) -> dict[str, Any]:
    """Return what is to be written as JSON. Times are in seconds, shares between 0 and 1."""
    context = report.context()
    if CLIENT_KIT not in left_out():
        context["versions"][CLIENT_KIT] = metadata.version(CLIENT_KIT)
    return {
        "context": context,
        "left_out": left_out(),
        "backends": {"count": BACKENDS, "workers": WORKERS, "service": SERVICE},
        "scenarios": [
            {
                **dataclasses.asdict(scenario),
                "disturbance": scenario.disturbance.name,
                "load": scenario.load,
                "contenders": {name: _several(several) for name, several in results[scenario.name].items()},
            }
            for scenario in scenarios
        ],
        "costs": {
            name: dict(zip(("median", "q1", "q3"), report.spread(each), strict=True)) for name, each in costs.items()
        },
        "figures": [{**dataclasses.asdict(figure), "met": figure.met} for figure in figures],
    }


def _several(several: Several) -> dict[str, Any]:
    spreads = {
        name: dict(zip(("median", "min", "max"), several.spread(of), strict=True)) for name, of in _MEASURES.items()
    }
    return {**spreads, "errors": dict(several.errors), "rounds": [_run(run) for run in several.runs]}


def _run(run: Run) -> dict[str, Any]:
    measured = {name: of(run) for name, of in _MEASURES.items()}
    return {
        "round": run.round,
        "calls": run.calls,
        "errors": run.errors,
        "reasons": run.reasons,
        "special": run.special,
        **measured,
    }


def _latency(percent: float) -> Callable[[Run], float]:
    return lambda run: run.latency(percent)


_MEASURES: dict[str, Callable[[Run], float]] = {
    **{f"p{percent:g}": _latency(percent) for percent in PERCENTILES},
    "failed": lambda run: run.failed,
    "cpu": lambda run: run.cpu,
    "late": lambda run: run.late,
    "busy": lambda run: run.busy,
}
