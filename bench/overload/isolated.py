"""Runs one case in a process of its own: fresh channels, fresh threads, memory that nobody else has touched."""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
import threading
from typing import Any

from ..report import ROOT

__all__ = ["isolated"]

# Hundreds of callers are as many threads, and the usual eight megabytes for each are only a reservation, but one that
# containers may refuse.
STACK = 256 * 1024
# A case that takes this much longer than its load hangs.
PATIENCE = 120.0


def isolated(module: str, seconds: float, **arguments: Any) -> dict[str, Any]:
    """Return what ``case(**arguments)`` of a module of this package returns, run elsewhere.

    Arguments:
        seconds: how long its load takes; it is also its argument of that name.
    """
    asked = json.dumps({"seconds": seconds, **arguments})
    command = [sys.executable, "-m", __name__, module, asked]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=seconds + PATIENCE)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> None:
    """Run the case, and print what it returns."""
    _, module, asked = sys.argv
    threading.stack_size(STACK)
    # What the pool logs about servers that go away is part of the scenario.
    logging.getLogger("grpcpool").addHandler(logging.NullHandler())
    case = importlib.import_module(f"{__package__}.{module}").case
    print(json.dumps(case(**json.loads(asked))))


if __name__ == "__main__":
    main()
