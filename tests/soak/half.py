"""The process of one room: does what it is told on standard input, and answers each line with one of JSON."""

from __future__ import annotations

import importlib
import json
import logging
import sys
import warnings

from .ledger import Ledger

__all__: list[str] = []


class Noted(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.lines.append(self.format(record)[:800])


def main() -> None:
    """Run the room."""
    _, room, targets, seed = sys.argv
    noted = Noted()
    for name in ("grpcpool", "asyncio"):
        logging.getLogger(name).addHandler(noted)
    # Newer Pythons warn of a fork in a process with threads, which is what is tried here.
    warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
    ledger = Ledger()
    half = importlib.import_module(f"{__package__}.room_{room}").Room(targets.split(","), ledger, int(seed))
    for line in sys.stdin:
        command = line.strip()
        answer: object
        if command == "run":
            answer = half.run()
        elif command == "calm":
            answer = half.calm()
        else:
            answer = {"held": half.close(), **ledger.summary(), "logged": noted.lines}
        print(json.dumps(answer), flush=True)
        if command == "end":
            return


if __name__ == "__main__":
    main()
