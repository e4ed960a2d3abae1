"""What every benchmark hands in, and how it is printed: a figure, its bar, and whether it is met."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["Figure", "conclude", "context", "spread"]

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Figure:
    """One result.

    Attributes:
        name: what was measured.
        value: how much, in `unit`.
        unit: ``"×"`` for a ratio.
        bar: the most that `value` may be; None if it is shown for comparison only.
        aim: what it should better be; missing it is no failure.
        note: the spread, or what the figure is made of.
    """

    name: str
    value: float
    unit: str
    bar: float | None = None
    aim: float | None = None
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the bar is held; true if there is none."""
        return self.bar is None or self.value <= self.bar

    @property
    def verdict(self) -> str:
        """What to print about the bar."""
        if self.bar is None:
            return ""
        word = "ok" if self.met else "MISSED"
        aim = "" if self.aim is None else f", aim {self.aim:g}"
        return f"{word} (bar {self.bar:g}{aim})"


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and the two quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def context() -> dict[str, Any]:
    """Return what the figures depend on: versions, the commit and the number of cores; nothing that names a machine."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in ("grpcpool", "grpcio", "pyperf", "psutil")},
        "commit": _commit(),
    }


def conclude(title: str, figures: Iterable[Figure], json_file: Path | None = None) -> int:
    """Print the figures, write them to `json_file` if given, and return the exit status: 1 if a bar is missed."""
    figures = list(figures)
    width = max(len(figure.name) for figure in figures)
    print(f"\n{title}")
    for figure in figures:
        value = f"{figure.value:.3f} {figure.unit}"
        print(f"  {figure.name:<{width}}  {value:>14}  {figure.verdict:<26} {figure.note}".rstrip())
    if json_file is not None:
        found = [{**dataclasses.asdict(figure), "met": figure.met} for figure in figures]
        json_file.write_text(json.dumps({"context": context(), "figures": found}, indent=2) + "\n", encoding="utf-8")
    missed = [figure.name for figure in figures if not figure.met]
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = "+changes" if git("status", "--porcelain", "--untracked-files=no", "--", "src", "bench") else ""
        return git("rev-parse", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        # Not a clone, or no git: the versions have to do.
        return None
