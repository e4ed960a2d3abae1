"""What the choice costs: pick, start and end of a call, for every strategy that takes no key, without a network.

Every strategy gets pools of several sizes, in which three calls are in flight for each member, on average, and take
10 ms: one after the other, drawn at random, a call ends and another begins, by the same steps as in a blocking unary
call of the sync pool. Contenders take turns, a block of some milliseconds each, over and over: a disturbance hits
neighbours alike, and ratios of neighbours survive it.

Time is simulated: every look at the clock advances it by as much as makes calls last 10 ms. With the real one they
would last as long as this loop needs for them all, microseconds, which no strategy was made for.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from grpcpool.core.generation import Generation, GenerationBuilder
from grpcpool.core.member import SMOOTHING, Member
from grpcpool.core.norm import Norm, Norms
from grpcpool.strategies import available, resolve

from .report import ROOT, Figure, conclude, spread

__all__ = ["main", "measure"]

SIZES = (8, 16, 64, 1024)
BASE = "power_of_two 8"
# What there is besides the choice itself; taken off everything.
SCAFFOLD = "scaffold"
# Nanoseconds.
BARS: dict[str, float] = {"adaptive 8": 1000.0, "adaptive 16": 1500.0, "adaptive 1024": 1500.0}

IN_FLIGHT = 3
LATENCY = 0.010
# Calls in a block of the quick ones, and seconds that a block of the slow ones takes at most.
CALLS = 2000
LONGEST = 0.005
BLOCKS = 60
# Until most of the calls with which a large pool begins have ended.
WARMUPS = 15


def measure(processes: int, blocks: int = BLOCKS) -> list[Figure]:
    """Run the workers, and return what came out."""
    found: dict[str, list[list[float]]] = {}
    for _ in range(processes):
        command = [sys.executable, "-m", "bench.strategies", "--worker", "--blocks", str(blocks)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        for name, values in json.loads(done.stdout).items():
            found.setdefault(name, []).append(values)
    return _judge(found)


def _judge(found: dict[str, list[list[float]]]) -> list[Figure]:
    scaffold = _flat(found.pop(SCAFFOLD))
    base = [value - bare for value, bare in zip(_flat(found[BASE]), scaffold, strict=True)]
    figures = []
    for name, runs in found.items():
        values = [value - bare for value, bare in zip(_flat(runs), scaffold, strict=True)]
        middle, low, high = spread(values)
        fastest = min(_flat(runs)) - min(scaffold)
        ratio, *quartiles = spread([value / other for value, other in zip(values, base, strict=True)])
        note = (
            f"median {middle:.0f}, quartiles {low:.0f} to {high:.0f}; "
            f"{ratio:.2f} × {BASE}, quartiles {quartiles[0]:.2f} to {quartiles[1]:.2f}"
        )
        figures.append(Figure(name, fastest, "ns", BARS.get(name), note=note))
    print(f"{SCAFFOLD}: {statistics.median(scaffold):.0f} ns, fastest {min(scaffold):.0f} ns (taken off)")
    return figures


def _flat(runs: list[list[float]]) -> list[float]:
    return [value for run in runs for value in run]


@dataclasses.dataclass(slots=True)
class Source:
    """What knows the generation, as a pool's engine does."""

    generation: Generation


class Contender:
    """One strategy with a pool of one size, under load."""

    def __init__(self, name: str, size: int) -> None:
        members = tuple(Member(index, f"member-{index}") for index in range(size))
        # Two looks at the clock for each call, and `adaptive` takes a third.
        self.clock = itertools.count(1.0, LATENCY / (IN_FLIGHT * size) / 2.5).__next__
        builder = GenerationBuilder(
            resolve(name),
            rng=random.Random(size),
            clock=self.clock,
            not_connected=_impossible,
            no_channel=_impossible,
            on_error=_impossible,
        )
        self.source = Source(builder.build(members, ()))
        self.norm = Norms().of("method")
        self.running: list[Any] = []
        for _ in range(IN_FLIGHT * size):
            member, now = self.source.generation.pick(), self.clock()
            self.running.append((member, member.begin(now, True), now))
        self.chance = random.Random(1)
        self.calls = CALLS

    def block(self) -> float:
        """Return the seconds that one call takes."""
        # Drawn anew for each block: what is never drawn hangs.
        order = self.chance.choices(range(len(self.running)), k=self.calls)
        started = time.perf_counter()
        _work(self.source, self.clock, self.norm, self.running, order)
        each = (time.perf_counter() - started) / len(order)
        # Fewer calls next time, if they take that long.
        self.calls = min(CALLS, max(20, int(LONGEST / each)))
        return each


def _work(source: Source, clock: Callable[[], float], norm: Norm, running: list[Any], order: list[int]) -> None:
    """End a call and begin another, over and over, as `grpcpool.sync.multicallables.UnaryUnary.__call__` does it."""
    for slot in order:
        member, token, started = running[slot]
        now = clock()
        observer = member.observer
        member.leases.remove(token)
        if member.limit <= 0:
            member.rest()
        latency, average = now - started, member.latency
        member.latency = latency if average is None else average + (latency - average) * SMOOTHING
        if observer is not None:
            observer.answered(now, latency if norm.alone else norm.learn(latency))
        member = source.generation.pick()
        token = member.count()
        started = clock()
        leases = member.leases
        leases.add(token)
        if len(leases) > member.limit:
            raise AssertionError("nobody retires here")
        observer = member.observer
        if observer is not None:
            observer.started(started, True)
        running[slot] = member, token, started


class Scaffold:
    """The same loop, without a choice: what is to be taken off."""

    def __init__(self) -> None:
        self.clock = itertools.count(1.0, LATENCY).__next__
        self.running = [(object(), number, 1.0) for number in range(IN_FLIGHT * 8)]
        self.order = random.Random(1).choices(range(len(self.running)), k=CALLS)

    def block(self) -> float:
        """Return the seconds that one round takes."""
        started = time.perf_counter()
        _walk(self.clock, self.running, self.order)
        return (time.perf_counter() - started) / len(self.order)


def _walk(clock: Callable[[], float], running: list[Any], order: list[int]) -> None:
    for slot in order:
        member, token, started = running[slot]
        clock()
        started = clock()
        running[slot] = member, token, started


def _impossible(*problem: str) -> NoReturn:
    raise AssertionError(*problem)


def _worker(blocks: int) -> dict[str, list[float]]:
    contenders: dict[str, Contender | Scaffold] = {SCAFFOLD: Scaffold()}
    for name in available():
        if not getattr(resolve(name), "keyed", False):
            contenders |= {f"{name} {size}": Contender(name, size) for size in SIZES}
    found: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders.items())
    for block in range(WARMUPS + blocks):
        # There and back, so that no contender always follows the same one.
        for name, contender in order if block % 2 else reversed(order):
            taken = contender.block() * 1e9
            if block >= WARMUPS:
                found[name].append(taken)
    return found


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4, help="worker processes, one after the other (default: 4)")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help=f"of each contender (default: {BLOCKS})")
    parser.add_argument("--json", type=Path, help="write the figures")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        json.dump(_worker(arguments.blocks), sys.stdout)
        return 0
    return conclude("Pick, start and end", measure(arguments.processes, arguments.blocks), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
