"""What a pool costs while nobody uses it: CPU time and threads of 200 connected, idle members.

Each case runs in a process of its own. One plain channel is connected first, because grpc's own machinery comes with
the first channel; what is added after that counts. The same number of plain channels is measured too, to tell the
pool's part from grpc's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil

import grpcpool
from grpcpool.testing import ECHO, ServerProcess

from .report import ROOT, Figure, conclude

__all__ = ["main", "measure"]

MEMBERS = 200
METHOD = f"{ECHO}Unary"
CONNECT_TIMEOUT = 120.0
# After the last member has connected: the pool's thread slackens its pace, and threads that grpc started for the
# burst of work end.
CALM = 3.0
BAR_CPU = 0.5
BAR_THREADS = {"sync": 1, "aio": 0}
# Plain channels with equal options share a connection; these do not.
OWN = [("grpc.use_local_subchannel_pool", 1)]


@dataclass(frozen=True)
class Sample:
    """What one process saw.

    Attributes:
        cpu: CPU time as a percentage of one core.
        threads: Python's threads, as added to the one channel.
        native: threads as the operating system counts them, as added to the one channel.
    """

    cpu: float
    threads: int
    native: int


def measure(seconds: float) -> list[Figure]:
    """Run all cases, and return what came out."""
    figures = []
    with ServerProcess() as server:
        for room in ("sync", "aio"):
            plain, pool = (_run(room, kind, server.target, seconds) for kind in ("plain", "pool"))
            note = f"{MEMBERS} plain channels: {plain.cpu:.3f} %"
            figures.append(Figure(f"{room}: {MEMBERS} idle members, CPU", pool.cpu, "% of a core", BAR_CPU, note=note))
            note = f"operating system: {pool.native:+d}; {MEMBERS} plain channels: {plain.native:+d}"
            figures.append(Figure(f"{room}: threads added", pool.threads, "threads", BAR_THREADS[room], note=note))
    return figures


def _run(room: str, kind: str, target: str, seconds: float) -> Sample:
    command = [sys.executable, "-m", "bench.idle", "--seconds", str(seconds), "--case", room, kind, target]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return Sample(**json.loads(done.stdout))


def _threads() -> tuple[int, int]:
    return threading.active_count(), psutil.Process().num_threads()


def _call(channel: Any) -> Any:
    """Make a call, so that the channel is connected; for an aio channel, what to await."""
    return channel.unary_unary(METHOD)(b"")


def _sync(kind: str, target: str, seconds: float) -> Sample:
    first = grpc.insecure_channel(target, options=OWN)
    _call(first)
    before = _threads()
    if kind == "pool":
        pool = grpcpool.insecure_channel(target, size=MEMBERS)
        pool.wait_ready(CONNECT_TIMEOUT, min_ready=MEMBERS)
        keep: object = pool
    else:
        channels = [grpc.insecure_channel(target, options=OWN) for _ in range(MEMBERS)]
        for channel in channels:
            _call(channel)
        keep = channels
    time.sleep(CALM)
    started, cpu = time.monotonic(), time.process_time()
    time.sleep(seconds)
    sample = _sample(started, cpu, before)
    del keep
    return sample


async def _aio(kind: str, target: str, seconds: float) -> Sample:
    first = grpc.aio.insecure_channel(target, options=OWN)
    await _call(first)
    before = _threads()
    if kind == "pool":
        pool = grpcpool.aio.insecure_channel(target, size=MEMBERS)
        await pool.wait_ready(CONNECT_TIMEOUT, min_ready=MEMBERS)
        channels: list[grpc.aio.Channel] = [pool]
    else:
        channels = [grpc.aio.insecure_channel(target, options=OWN) for _ in range(MEMBERS)]
        for channel in channels:
            await _call(channel)
    await asyncio.sleep(CALM)
    started, cpu = time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    sample = _sample(started, cpu, before)
    for channel in [first, *channels]:
        await channel.close()
    return sample


def _sample(started: float, cpu: float, before: tuple[int, int]) -> Sample:
    share = 100 * (time.process_time() - cpu) / (time.monotonic() - started)
    threads, native = _threads()
    return Sample(cpu=share, threads=threads - before[0], native=native - before[1])


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each case is watched (default: 10)")
    parser.add_argument("--json", type=Path, help="write the figures")
    parser.add_argument("--case", nargs=3, metavar=("ROOM", "KIND", "TARGET"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        room, kind, target = arguments.case
        if room == "sync":
            sample = _sync(kind, target, arguments.seconds)
        else:
            sample = asyncio.run(_aio(kind, target, arguments.seconds))
        print(json.dumps(asdict(sample)))
        return 0
    return conclude(f"{MEMBERS} idle members", measure(arguments.seconds), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
