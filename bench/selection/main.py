"""Measure every contender in every scenario, print tables and bars, write figures and plots."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from .. import report
from . import cost, plots
from .contenders import Contender, contenders, left_out
from .measure import Run, Several, measure
from .record import record
from .scenarios import SCENARIOS, Scenario
from .tables import heading, table
from .verdict import figures

__all__ = ["main"]

# With more than this in use, what is measured is the machine as much as the choice.
TOO_BUSY = 60.0
# How much shorter a look is than a measurement, and how many rounds of blocks `cost` gets in either.
QUICK = 0.3
QUICK_SECONDS = 1.5
BLOCKS, QUICK_BLOCKS = 100, 15


def main() -> int:
    """Measure, print, and return the exit status: 1 if a bar is missed."""
    arguments = _arguments()
    chosen = [SCENARIOS[name] for name in dict.fromkeys(arguments.scenario or SCENARIOS)]
    chosen = [_adjusted(scenario, arguments) for scenario in chosen]
    field = [contender for contender in contenders() if contender.name in (arguments.contender or [contender.name])]
    if arguments.plot:
        plots.check()
    # Servers go away here because they are told to; a table is no place for the news.
    logging.getLogger("grpcpool").addHandler(logging.NullHandler())
    for name, reason in left_out().items():
        print(f"left out: {name}: {reason}")
    results: dict[str, dict[str, Several]] = {}
    for scenario in chosen:
        print(f"\n{heading(scenario)}", flush=True)
        results[scenario.name] = _scenario(scenario, field)
        print(table(scenario, results[scenario.name]), flush=True)
        if arguments.plot:
            print(f"drawn: {plots.draw(scenario, results[scenario.name], arguments.plot)}")
    _warn(results)
    # How much work it is to choose is asked where there is nothing to choose.
    costs = cost.measure(field, QUICK_BLOCKS if arguments.quick else BLOCKS) if "equal" in results else {}
    found = [*figures(results), *cost.figures(costs)]
    if arguments.json:
        written = record(chosen, results, costs, found)
        arguments.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return report.conclude("Selection", found) if found else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.selection",
        description="Which backend gets the call: contenders against real gRPC servers that misbehave.",
    )
    names = [contender.name for contender in contenders()]
    parser.add_argument("--scenario", action="append", choices=[*SCENARIOS], help="only this one; may be repeated")
    parser.add_argument("--contender", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, help="how often everything is measured (default: as the scenario says)")
    parser.add_argument("--seconds", type=float, help="how long each time (default: as the scenario says)")
    parser.add_argument("--clients", type=int, help="how many share the load (default: as the scenario says)")
    parser.add_argument("--rate", type=float, help="calls per second of all clients (default: as the scenario says)")
    parser.add_argument("--quick", action="store_true", help="one short round: a look, not a verdict")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, with versions and commit")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw one picture for each scenario")
    return parser.parse_args()


def _adjusted(scenario: Scenario, arguments: argparse.Namespace) -> Scenario:
    if arguments.quick:
        seconds = max(scenario.seconds * QUICK, QUICK_SECONDS)
        scenario = dataclasses.replace(scenario, rounds=1, warm_up=QUICK_SECONDS / 2, seconds=seconds)
    asked = {name: getattr(arguments, name) for name in ("rounds", "seconds", "clients", "rate")}
    return dataclasses.replace(scenario, **{name: value for name, value in asked.items() if value is not None})


def _scenario(scenario: Scenario, field: Sequence[Contender]) -> dict[str, Several]:
    runs: dict[str, list[Run]] = {contender.name: [] for contender in field}
    for number in range(scenario.rounds):
        for contender in _turned(field, number):
            _say(f"{scenario.name}, round {number + 1} of {scenario.rounds}: {contender.name}")
            runs[contender.name].append(measure(scenario, contender, number))
    _say("")
    return {name: Several(several) for name, several in runs.items()}


def _say(what: str) -> None:
    """Say on a terminal what is being done: it takes minutes until there is anything to print."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


def _turned(field: Sequence[Contender], number: int) -> Iterator[Contender]:
    """Everyone in turn, beginning with another one each time, so that nobody always follows the same one's heels."""
    first = number % len(field)
    turned = [*field[first:], *field[:first]]
    yield from turned if number % 2 == 0 else reversed(turned)


def _warn(results: Mapping[str, Mapping[str, Several]]) -> None:
    busy = statistics.median([run.busy for run in _runs(results)])
    if busy > TOO_BUSY:
        print(f"\nThe machine was {busy:.0f} % busy: latencies and CPU times are those of a crowded machine.")


def _runs(results: Mapping[str, Mapping[str, Several]]) -> Iterable[Run]:
    return (run for measured in results.values() for several in measured.values() for run in several.runs)
