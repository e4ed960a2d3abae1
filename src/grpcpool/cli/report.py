"""The end of the demo: as tables, and as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import grpc
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import grpcpool

from .director import KILLED
from .load import DEADLINE
from .model import Outcome, Result

__all__ = ["counted", "failed", "milliseconds", "tables", "to_json"]


def milliseconds(seconds: float | None) -> str:
    """Write a duration in milliseconds; a dash for None."""
    return "-" if seconds is None else f"{seconds * 1000:.1f}"


def counted(connections: Mapping[str, int] | None) -> str:
    """Write a number of connections, and how it is made up of those to each server; a dash for None."""
    if connections is None:
        return "-"
    return f"{sum(connections.values())} ({'+'.join(str(count) for count in connections.values())})"


def failed(errors: Mapping[str, int], separator: str = ", ") -> str:
    """Write how many calls failed, by status code, the most frequent first."""
    ordered = sorted(errors.items(), key=lambda item: (-item[1], item[0]))
    return separator.join(f"{count} {code}" for code, count in ordered) or "0"


def tables(result: Result) -> RenderableType:
    """Return the report as something that rich prints."""
    # Fits into 80 columns, what a pipe is taken to have.
    measured = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    measured.add_column("contender", no_wrap=True)
    for heading in ("calls", "errors", "p50 ms", "p99 ms", "max ms", "connections"):
        measured.add_column(heading, justify="right")
    for outcome in result.outcomes:
        latency = outcome.measured.latency
        measured.add_row(
            Text(outcome.contender.name),
            str(outcome.measured.calls),
            failed(outcome.measured.errors, "\n"),
            milliseconds(latency.p50 if latency else None),
            milliseconds(latency.p99 if latency else None),
            milliseconds(latency.slowest if latency else None),
            counted(outcome.connections),
        )
    legend = Table(box=None, pad_edge=False, show_header=False)
    legend.add_column(style="bold")
    legend.add_column(overflow="fold")
    for name, text in _legend(result):
        legend.add_row(Text(name), Text(text))
    return Group(measured, legend)


def _legend(result: Result) -> Iterator[tuple[str, str]]:
    settings = result.settings
    for outcome in result.outcomes:
        yield outcome.contender.name, f"{outcome.contender.code}\n{outcome.contender.what}"
    calls = (
        f"made by {settings.threads} threads for {settings.seconds:g} s, each as soon as its last one had ended, with "
        f"a deadline of {DEADLINE:g} s; one contender after the other, no retries by the caller"
    )
    yield "calls", calls
    yield "latency", "of the calls that ended OK: median, 99th percentile, slowest"
    servers = "+".join(server.name for server in result.servers)
    yield "connections", f"TCP, to the servers {servers}, as the operating system listed them before the kill"
    for outcome in result.outcomes:
        yield outcome.contender.name, "; ".join(_fate(outcome, result.servers[KILLED].name))


def _fate(outcome: Outcome, killed: str) -> Iterator[str]:
    if outcome.killed_at is None:
        yield "over before the kill"
    elif outcome.back_at is None:
        yield f"server {killed} killed at {outcome.killed_at:.1f} s, not back before the end"
    else:
        yield f"server {killed} killed at {outcome.killed_at:.1f} s, back at {outcome.back_at:.1f} s"
    if outcome.connections_grown is not None:
        yield f"grown to {counted(outcome.connections_grown)} connections"
    yield f"{counted(outcome.connections_end)} connections at the end"


def to_json(result: Result) -> str:
    """Return everything that was measured as JSON text; durations are in seconds."""
    document: dict[str, Any] = {
        "versions": {
            "grpcpool": grpcpool.__version__,
            "grpcio": grpc.__version__,
            "python": platform.python_version(),
        },
        "settings": asdict(result.settings),
        "servers": [asdict(server) for server in result.servers],
        "killed": result.servers[KILLED].name,
        "contenders": [_outcome(outcome) for outcome in result.outcomes],
    }
    return json.dumps(document, indent=2) + "\n"


def _outcome(outcome: Outcome) -> dict[str, Any]:
    measured = outcome.measured
    return {
        "name": outcome.contender.name,
        "code": outcome.contender.code,
        "what": outcome.contender.what,
        "seconds": measured.seconds,
        "calls": measured.calls,
        "succeeded": measured.succeeded,
        "errors": measured.errors,
        "latency": None if measured.latency is None else asdict(measured.latency),
        "connections": {
            "before_kill": outcome.connections,
            "grown": outcome.connections_grown,
            "end": outcome.connections_end,
        },
        "killed_at": outcome.killed_at,
        "back_at": outcome.back_at,
        "notes": [asdict(note) for note in outcome.notes],
        "pool": None if outcome.stats is None else asdict(outcome.stats),
    }
