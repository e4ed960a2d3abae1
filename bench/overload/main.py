"""Run the scenarios, print tables and bars, and write everything down."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
from pathlib import Path

from .. import report
from .plan import Plan, Result
from .tables import table

__all__ = ["main"]

# Each is a module of this package, with a `TITLE` and a `measure`.
SCENARIOS = ("limit", "burst", "band", "recycle", "age", "cost")


def main() -> int:
    """Measure, print, and return the exit status: 1 if a bar is missed."""
    arguments = _arguments()
    plan = Plan(arguments.quick, arguments.rounds, arguments.seconds, arguments.before)
    results: dict[str, Result] = {}
    for name in dict.fromkeys(arguments.scenario or SCENARIOS):
        scenario = importlib.import_module(f"{__package__}.{name}")
        print(f"\n{name}: {scenario.TITLE}", flush=True)
        _warn()
        results[name] = scenario.measure(plan)
        if results[name].table:
            print(table(results[name].table), flush=True)
    figures = [figure for result in results.values() for figure in result.figures]
    if arguments.json:
        written = {
            "context": report.context(),
            "scenarios": {name: result.record for name, result in results.items()},
            "figures": [{**dataclasses.asdict(figure), "met": figure.met} for figure in figures],
        }
        arguments.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return report.conclude("Overload and lifecycle", figures) if figures else 0


def _warn() -> None:
    """Say so if others use the machine: all that is timed is then that of a crowded machine."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores:
        print(f"the load average is {load:.1f}, on {cores} cores, before this begins", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.overload", description=importlib.import_module(__package__).__doc__
    )
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, help="how often everything is measured (default: as the scenario says)")
    parser.add_argument("--seconds", type=float, help="how long each time (default: as the scenario says)")
    parser.add_argument("--quick", action="store_true", help="one short round: a look, not a verdict")
    parser.add_argument(
        "--before", type=Path, metavar="DIR", help="a checkout of an older version, to compare costs with"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, with versions and commit")
    return parser.parse_args()
