"""Run the scenarios, print tables and verdicts, and write everything down."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import report
from ..overload.tables import table
from .contenders import ROOMS
from .run import run
from .scenario import Run, Scenario
from .scenarios import SCENARIOS

__all__ = ["main"]

# What is written down of the calls that failed, by run.
MOST_FAILURES = 200


def main() -> int:
    """Measure and print; return 0 also if bars are missed."""
    arguments = _arguments()
    written, figures = [], []
    for name in dict.fromkeys(arguments.scenario or SCENARIOS):
        scenario = SCENARIOS[name]
        seconds = max(arguments.seconds or scenario.seconds, scenario.shortest)
        print(f"\n{name}: {scenario.title}\n{scenario.rate:g} calls per second for {seconds:g} s", flush=True)
        runs = _runs(scenario, seconds, arguments.room or ROOMS)
        print(table(_rows(scenario, runs)), flush=True)
        found = scenario.judge({(one.room, one.contender): one for one in runs})
        _verdicts(found)
        figures += found
        written.append({"name": name, "seconds": seconds, "runs": [_record(one) for one in runs]})
        if arguments.json:
            # After each, for whoever does not want to wait for the last.
            _write(arguments.json, written, figures)
    missed = [figure.name for figure in figures if not figure.met]
    print(f"\n{len(figures) - len(missed)} of {len(figures)} held" + "".join(f"\nmissed: {name}" for name in missed))
    return 0


def _runs(scenario: Scenario, seconds: float, rooms: Sequence[str]) -> list[Run]:
    found = []
    for room in rooms:
        for contender in scenario.contenders:
            print(f"{scenario.name}: {room}, {contender}", file=sys.stderr, flush=True)
            found.append(run(scenario.name, contender, room, seconds))
    return found


def _rows(scenario: Scenario, runs: Sequence[Run]) -> list[list[str]]:
    rows: list[list[str]] = []
    for one in runs:
        cells = {
            "room": one.room,
            "contender": one.contender,
            "calls": str(len(one.samples)),
            "failed": str(len(one.failed)),
            **scenario.columns(one),
            "p50 ms": f"{1e3 * one.latency(50):.0f}",
            "p99 ms": f"{1e3 * one.latency(99):.0f}",
            "p99.9 ms": f"{1e3 * one.latency(99.9):.0f}",
            "worst ms": f"{1e3 * one.latency(100):.0f}",
            "late ms": f"{1e3 * one.late:.0f}",
            "sent again": str(one.stats.get("retries", "-")),
            "busy %": f"{100 * one.busy:.0f}",
            "stolen %": f"{100 * one.stolen:.0f}",
            "errors": ", ".join(f"{code} {count}" for code, count in one.errors.most_common()) or "none",
        }
        rows += [[*cells]] if not rows else []
        rows.append([*cells.values()])
    return rows


def _verdicts(figures: Sequence[report.Figure]) -> None:
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        word = "HELD  " if figure.met else "MISSED"
        value = f"{figure.value:.3f} {figure.unit}".strip()
        print(f"  {word} {figure.name:<{width}}  {value:>12} (bar {figure.bar:g})  {figure.note}".rstrip(), flush=True)


def _record(one: Run) -> dict[str, Any]:
    texts = Counter(f"{sample.code}: {sample.details}" for sample in one.failed)
    return {
        "room": one.room,
        "contender": one.contender,
        "calls": len(one.samples),
        "failed": len(one.failed),
        "errors": one.errors,
        "texts": dict(texts.most_common(20)),
        "failures": [dataclasses.asdict(sample) for sample in one.failed[:MOST_FAILURES]],
        "latencies": {f"p{percent:g}": one.latency(percent) for percent in (50, 99, 99.9, 100)},
        "late": one.late,
        "cpu": one.cpu,
        "busy": one.busy,
        "stolen": one.stolen,
        "reached": one.reached,
        "sent": one.sent,
        "marks": [dataclasses.asdict(mark) for mark in one.marks],
        "stats": one.stats,
    }


def _write(path: Path, written: list[dict[str, Any]], figures: Sequence[report.Figure]) -> None:
    found = {
        "context": report.context(),
        "scenarios": written,
        "figures": [{**dataclasses.asdict(figure), "met": figure.met} for figure in figures],
    }
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.resilience", description=importlib.import_module(__package__).__doc__
    )
    parser.add_argument("--scenario", action="append", choices=[*SCENARIOS], help="only this one; may be repeated")
    parser.add_argument("--room", action="append", choices=ROOMS, help="only this one; may be repeated")
    parser.add_argument("--seconds", type=float, help="how long each run takes (default: as the scenario says)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, with versions and commit")
    return parser.parse_args()
