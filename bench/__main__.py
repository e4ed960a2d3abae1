"""Run every benchmark and sum up: ``python -m bench``, from the root of the repository."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import calls, idle, import_time, pick, strategies
from .report import conclude


def main() -> int:
    """Measure everything, and return the exit status: 1 if any bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: a look, not a verdict")
    parser.add_argument("--json", type=Path, help="write all figures, with versions and commit")
    arguments = parser.parse_args()
    quick = arguments.quick
    figures = [
        *pick.measure(processes=1 if quick else 5),
        *strategies.measure(processes=1 if quick else 4),
        *calls.measure(rounds=100 if quick else 1000),
        *idle.measure(seconds=3.0 if quick else 10.0),
        *import_time.measure(runs=5 if quick else 15),
    ]
    return conclude("All benchmarks", figures, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
