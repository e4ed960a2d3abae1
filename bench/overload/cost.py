"""What admission costs while nobody has to wait: the hot path, which is all that a pool does for a unary call.

It is timed without the network; whole calls are beside it, for they are what a user pays.

A pool with a limit and room below it against one without, and one without against an older version of the package, if a
checkout of that is given. Contenders take turns in short blocks, each version in a process of its own.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from grpcpool.testing import ServerProcess

from ..report import ROOT, Figure, spread
from .clients import ROOMS
from .hot_path import CAP
from .plan import Plan, Result

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["TITLE", "measure"]

TITLE = "what admission costs while nobody has to wait"

WARMUPS = 5
# Rounds of blocks in one set of processes. No two processes lay out their memory alike, so there are several sets.
BLOCKS = 40
NOW, AGAIN, BEFORE = "now", "now, again", "before"
# Nanoseconds.
BAR_CAPPED = 300.0
BAR_BEFORE = 1.02


class _Worker:
    """A process that does blocks of calls with one version of the package. A context manager."""

    def __init__(self, root: Path, target: str, seed: int, capped: bool) -> None:
        self._source = (root / "src").resolve()
        command = [sys.executable, "-m", "bench.overload.hot_path", target, *(["capped"] if capped else [])]
        # The order of what is hashed is the same for all that are compared.
        environment = {**os.environ, "PYTHONPATH": str(self._source), "PYTHONHASHSEED": str(seed)}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        try:
            package = Path(self._read())
            if not package.is_relative_to(self._source):
                raise RuntimeError(f"{package} was imported instead of what is in {self._source}")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def block(self, name: str) -> float:
        """Return the nanoseconds that a call of this kind takes."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        return float(self._read()) * 1e9

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError("a worker has ended; what it said is above")
        return line

    def _end(self) -> None:
        # It ends when its standard input does.
        self._process.communicate()


def measure(plan: Plan) -> Result:
    """Run several sets of processes, one after the other."""
    sets, blocks = plan.how_often(8, 2), max(int(BLOCKS * (plan.seconds or 1.0)), 1)
    found: dict[tuple[str, str], list[list[float]]] = {}
    with ServerProcess() as server:
        for number in range(sets):
            print(f"cost, set {number + 1} of {sets}", file=sys.stderr)
            for contender, values in _set(plan, server.target, number, blocks).items():
                found.setdefault(contender, []).append(values)
    result = Result(table=[["room", "what", "contender", "median ns", "quartiles", "fastest"]])
    for (version, kind), runs in sorted(found.items(), key=lambda entry: entry[0][1]):
        middle, low, high = spread(_flat(runs))
        room, cap, what = kind.split()
        cells = [f"{middle:.0f}", f"{low:.0f} to {high:.0f}", f"{min(_flat(runs)):.0f}"]
        shown = {"path": "hot path", "call": "whole call"}[what]
        result.table.append([room, shown, f"{cap}, {version}", *cells])
        result.record.append({"room": room, "what": shown, "kind": cap, "version": version, "nanoseconds": runs})
    for room in ROOMS:
        result.figures += _judge(room, found)
    if plan.before is None:
        print("no older version was given (--before DIR), so none is compared with")
    return result


def _set(plan: Plan, target: str, seed: int, blocks: int) -> dict[tuple[str, str], list[float]]:
    with ExitStack() as stack:
        workers = {NOW: _Worker(ROOT, target, seed, True), AGAIN: _Worker(ROOT, target, seed, False)}
        if plan.before is not None:
            workers[BEFORE] = _Worker(plan.before, target, seed, False)
        for worker in workers.values():
            stack.enter_context(worker)
        contenders = [
            (version, f"{room} uncapped {what}") for room in ROOMS for version in workers for what in ("path", "call")
        ]
        contenders += [(NOW, f"{room} capped path") for room in ROOMS]
        # Neighbours in the order share the conditions best, so it changes from round to round.
        order = random.Random(seed)
        found: dict[tuple[str, str], list[float]] = {contender: [] for contender in contenders}
        for block in range(WARMUPS + blocks):
            order.shuffle(contenders)
            taken = dict.fromkeys(contenders, 0.0)
            # There and back, so that a steady drift cancels out.
            for version, kind in contenders + contenders[::-1]:
                taken[version, kind] += workers[version].block(kind) / 2
            if block >= WARMUPS:
                for contender, nanoseconds in taken.items():
                    found[contender].append(nanoseconds)
        return found


def _judge(room: str, found: dict[tuple[str, str], list[list[float]]]) -> list[Figure]:
    path, call = f"{room} uncapped path", f"{room} uncapped call"
    pairs = zip(_flat(found[NOW, f"{room} capped path"]), _flat(found[NOW, path]), strict=True)
    middle, low, high = spread([one - other for one, other in pairs])
    note = f"quartiles {low:.0f} to {high:.0f}"
    figures = [Figure(f"cost, {room}: cap of {CAP} with room, more than none", middle, "ns", BAR_CAPPED, note=note)]
    for shown, kind, bar in (("hot path", path, BAR_BEFORE), ("whole call", call, None)):
        name = f"cost, {room}: uncapped {shown}"
        # What the same thing twice differs by from 1 is chance, and no other ratio is more exact than that.
        figures.append(_ratio(f"{name}, {AGAIN} / {NOW}", found[AGAIN, kind], found[NOW, kind], None))
        if (BEFORE, kind) in found:
            figures.append(_ratio(f"{name}, {NOW} / {BEFORE}", found[NOW, kind], found[BEFORE, kind], bar))
    return figures


def _ratio(name: str, ones: list[list[float]], others: list[list[float]], bar: float | None) -> Figure:
    sets = [
        spread([a / b for a, b in zip(one, other, strict=True)])[0] for one, other in zip(ones, others, strict=True)
    ]
    middle, low, high = spread([a / b for a, b in zip(_flat(ones), _flat(others), strict=True)])
    usual = spread(_flat(others))[0]
    fastest = min(_flat(ones)) / min(_flat(others))
    note = (
        f"quartiles {low:.3f} to {high:.3f}, sets {min(sets):.3f} to {max(sets):.3f}, "
        f"fastest by fastest {fastest:.3f}; {usual:.0f} {usual * (middle - 1):+.0f} ns"
    )
    return Figure(name, middle, "×", bar, note=note)


def _flat(runs: list[list[float]]) -> list[float]:
    return [value for run in runs for value in run]
