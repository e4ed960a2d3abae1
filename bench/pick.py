"""What a pick costs: `get_channel` against a bare `itertools.cycle`, which is the least that a rotation can cost.

Each worker process connects real pools to a real server, then times all contenders in turn, a block of some
milliseconds each, over and over: a disturbance hits neighbours alike, and ratios of neighbours survive it. pyperf keeps
the values; ``--output`` writes them in its format, for ``python -m pyperf stats`` and the like.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyperf

import grpcpool
from grpcpool.testing import ServerProcess

from .report import ROOT, Figure, conclude, spread

__all__ = ["main", "measure"]

BARE = "itertools.cycle"
SIZES = (2, 8, 64, 1024)
# Calls in a block, as loops of so many: a few milliseconds. Short, to fit between two disturbances, and yet some twenty
# rounds over the largest pool, so that bringing its members back into the processor's caches does not count.
LOOPS = 2000
UNROLLED = 10
BLOCKS = 100
WARMUPS = 5
CONNECT_TIMEOUT = 60.0
# How many members of a large pool connect at a time.
STEP = 32


def measure(processes: int, output: Path | None = None) -> list[Figure]:
    """Run the workers, and return what came out."""
    suite: pyperf.BenchmarkSuite | None = None
    with ServerProcess() as server:
        for _ in range(processes):
            command = [sys.executable, "-m", "bench.pick", "--worker", server.target]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            one = pyperf.BenchmarkSuite.loads(done.stdout)
            if suite is None:
                suite = one
            else:
                suite.add_runs(one)
    assert suite is not None
    if output is not None:
        suite.dump(str(output), replace=True)
    return _judge(suite)


def _judge(suite: pyperf.BenchmarkSuite) -> list[Figure]:
    def values(name: str) -> list[tuple[float, ...]]:
        return [run.values for run in suite.get_benchmark(name).get_runs()]

    def ratio(name: str, base: str) -> tuple[float, str]:
        """The median over all blocks of what a block took by what its neighbour took, and the quartiles as a note."""
        pairs = zip(values(name), values(base), strict=True)
        ratios = [a / b for run, base_run in pairs for a, b in zip(run, base_run, strict=True)]
        middle, low, high = spread(ratios)
        fastest = min(map(min, values(name))) / min(map(min, values(base)))
        return middle, f"quartiles {low:.2f} to {high:.2f}; fastest by fastest {fastest:.2f}"

    def nanoseconds(name: str) -> str:
        every = [value for run in values(name) for value in run]
        return f"{statistics.median(every) * 1e9:.0f} ns, fastest {min(every) * 1e9:.0f} ns"

    figures = []
    bars: dict[str, tuple[float | None, float | None]] = {f"round_robin {size}": (4.0, 3.0) for size in SIZES}
    bars |= {"power_of_two 8": (12.0, 8.0), "random 8": (None, None)}
    for name, (bar, aim) in bars.items():
        value, note = ratio(name, BARE)
        figures.append(Figure(f"{name} / {BARE}", value, "×", bar, aim, f"{nanoseconds(name)}; {note}"))
    value, note = ratio(f"round_robin {SIZES[-1]}", f"round_robin {SIZES[0]}")
    figures.append(Figure(f"round_robin {SIZES[-1]} / round_robin {SIZES[0]}", value, "×", 1.1, note=note))
    print(f"{BARE}: {nanoseconds(BARE)}")
    return figures


def _worker(target: str) -> pyperf.BenchmarkSuite:
    with contextlib.ExitStack() as stack:

        def connected(size: int, strategy: str) -> Callable[[], object]:
            pool = stack.enter_context(grpcpool.insecure_channel(target, size=min(size, STEP), strategy=strategy))
            pool.wait_ready(CONNECT_TIMEOUT, min_ready=min(size, STEP))
            # Every change of a member's state makes the pool look through all members, so many that connect at the same
            # time take a time that grows with the square of their number.
            while (now := pool.status().expected_size) < size:
                pool.scale_up(min(STEP, size - now))
            return pool.get_channel

        contenders: dict[str, Callable[[], object]] = {BARE: itertools.cycle([object() for _ in range(8)]).__next__}
        contenders |= {f"round_robin {size}": connected(size, "round_robin") for size in SIZES}
        contenders |= {f"{strategy} 8": connected(8, strategy) for strategy in ("power_of_two", "random")}
        # The pools' threads slacken their pace when there is no more news; that takes about a third of a second.
        time.sleep(1.0)
        found: dict[str, list[float]] = {name: [] for name in contenders}
        order = list(contenders.items())
        for block in range(WARMUPS + BLOCKS):
            # There and back, so that no contender always follows the same one.
            for name, call in order if block % 2 else reversed(order):
                taken = _time(call)
                if block >= WARMUPS:
                    found[name].append(taken)
    return pyperf.BenchmarkSuite(
        [
            pyperf.Benchmark(
                [pyperf.Run(values, metadata={"name": name, "loops": LOOPS, "inner_loops": UNROLLED, "unit": "second"})]
            )
            for name, values in found.items()
        ]
    )


def _time(call: Callable[[], object]) -> float:
    """Return the seconds per call. Unrolled, because a loop of its own would weigh as much as the cheapest call."""
    loops = range(LOOPS)
    started = pyperf.perf_counter()
    for _ in loops:
        call()
        call()
        call()
        call()
        call()
        call()
        call()
        call()
        call()
        call()
    elapsed: float = pyperf.perf_counter() - started
    return elapsed / (LOOPS * UNROLLED)


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=5, help="worker processes, one after the other (default: 5)")
    parser.add_argument("--output", type=Path, help="write all values in pyperf's format")
    parser.add_argument("--json", type=Path, help="write the figures")
    parser.add_argument("--worker", metavar="TARGET", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        _worker(arguments.worker).dump(sys.stdout)
        return 0
    return conclude("A pick", measure(arguments.processes, arguments.output), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
