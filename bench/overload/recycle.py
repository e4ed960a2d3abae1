"""Members that live for a second, under a mixed load, in a pool that is resized at random all the while.

Calls are unary, server streams of half a second, and bidirectional streams. The memory that such a pool takes is shown
beside that of a process that makes, uses and closes as many plain channels (`churn`).
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import sys
import threading
import time
from typing import Any

import grpc

import grpcpool
from grpcpool.testing import ServerProcess

from ..report import Figure
from .calls import bidi, bidi_aio, stream, stream_aio, unary, unary_aio
from .clients import OWN, ROOMS, Client, opened, opened_aio
from .growth import Growth, per_thousand
from .isolated import isolated
from .load import Load, tasks, threads
from .plan import Plan, Result
from .watch import connections, native_threads

__all__ = ["TITLE", "case", "measure"]

TITLE = "members live for 1 s, and resizes at random"

SIZE = 16
LIFETIME = 1.0
POOL = Client(f"pool of {SIZE}, max_lifetime {LIFETIME:g}", {"size": SIZE, "max_lifetime": LIFETIME})
PLAIN = Client("plain channel")
# Sizes that it is resized to, and the seconds between two resizes.
SIZES = (8, 24)
PAUSES = (0.1, 1.0)
DELAY = 0.05
# Callers.
UNARY, STREAM, BIDI = 24, 8, 4
# From the end of the load until the last member has drained, and until what grpc has to clear up is cleared up.
PATIENCE = 10.0
LOOK = 0.05
BAR_MEMORY = 5.0


def case(room: str, target: str, seconds: float, seed: int) -> dict[str, Any]:
    """Run the pool in a room once."""
    return _sync(target, seconds, seed) if room == "sync" else asyncio.run(_aio(target, seconds, seed))


def _sync(target: str, seconds: float, seed: int) -> dict[str, Any]:
    # What comes with the first channel of a process is not the pool's.
    with grpc.insecure_channel(target, [OWN]) as first:
        unary(first)()
        before = _held(target)
        with opened(POOL, target) as pool:
            over, refused = threading.Event(), []

            def resize() -> None:
                rng = random.Random(seed)
                while not over.wait(rng.uniform(*PAUSES)):
                    try:
                        pool.resize(rng.randint(*SIZES))
                    except grpcpool.ScalingError as error:
                        refused.append(str(error))

            resizing = threading.Thread(target=resize)
            resizing.start()
            calls = [unary(pool)] * UNARY + [stream(pool)] * STREAM + [bidi(pool)] * BIDI
            with Growth(lambda: pool.stats().drained) as growth:
                load = threads(calls, seconds, warm_up=0.0, keep=False)
            over.set()
            resizing.join()
            found = _calm(pool, target)
        return {**_summary(load, growth, before, _after(target, before)), **found, "resizes_refused": refused}


async def _aio(target: str, seconds: float, seed: int) -> dict[str, Any]:
    async with opened_aio(PLAIN, target) as first:
        await unary_aio(first)()
        before = await asyncio.to_thread(_held, target)
        async with opened_aio(POOL, target) as pool:
            over, refused = asyncio.Event(), []

            async def resize() -> None:
                rng = random.Random(seed)
                while not over.is_set():
                    await asyncio.sleep(rng.uniform(*PAUSES))
                    try:
                        await pool.resize(rng.randint(*SIZES))
                    except grpcpool.ScalingError as error:
                        refused.append(str(error))

            resizing = asyncio.create_task(resize())
            calls = [unary_aio(pool)] * UNARY + [stream_aio(pool)] * STREAM + [bidi_aio(pool)] * BIDI
            with Growth(lambda: pool.stats().drained) as growth:
                load = await tasks(calls, seconds, warm_up=0.0, keep=False)
            over.set()
            await resizing
            found = await asyncio.to_thread(_calm, pool, target)
        after = await asyncio.to_thread(_after, target, before)
        return {**_summary(load, growth, before, after), **found, "resizes_refused": refused}


def _held(target: str) -> dict[str, int]:
    gc.collect()
    return {"sockets": len(connections(target)), "threads": threading.active_count(), "native": native_threads()}


def _calm(pool: Any, target: str) -> dict[str, Any]:
    """Return what the pool says when its load is over and the last member that was replaced then has drained."""
    begun = time.monotonic()
    while pool.stats().in_flight and time.monotonic() - begun < PATIENCE:
        time.sleep(LOOK)
    stats = pool.stats()
    return {
        "in_flight": stats.in_flight,
        "size": stats.size,
        "recycled": stats.recycled,
        "grown": stats.grown,
        "shrunk": stats.shrunk,
        "drained": stats.drained,
        "maintenance_errors": stats.maintenance_errors,
        # One is the first channel's.
        "sockets_open": len(connections(target)) - 1,
    }


def _after(target: str, before: dict[str, int]) -> dict[str, int]:
    """Return what is held after the pool was closed, once it has come down to what was before, or does not."""
    begun = time.monotonic()
    while True:
        held = _held(target)
        if all(held[of] <= before[of] for of in held) or time.monotonic() - begun > PATIENCE:
            return held
        time.sleep(LOOK)


def _summary(load: Load, growth: Growth, before: dict[str, int], after: dict[str, int]) -> dict[str, Any]:
    return {**load.summary(), "before": before, "after": after, "memory": growth.samples}


def measure(plan: Plan) -> Result:
    """Run the pool and the churn of plain channels in turn, in both rooms."""
    rounds, seconds = plan.how_often(1), plan.how_long(60.0, 15.0)
    found: dict[str, list[dict[str, Any]]] = {room: [] for room in ROOMS}
    plain: dict[str, list[dict[str, Any]]] = {room: [] for room in ROOMS}
    with ServerProcess(delay=DELAY) as server:
        for number in range(rounds):
            for room in ROOMS[:: 1 if number % 2 == 0 else -1]:
                print(f"recycle, round {number + 1} of {rounds}: {room}", file=sys.stderr)
                run = isolated("recycle", seconds, room=room, target=server.target, seed=number)
                found[room].append(run)
                asked = {"room": room, "target": server.target, "count": max(run["drained"], 1)}
                plain[room].append(isolated("churn", seconds, **asked))
    head = ["room", "calls", "failed", "cancelled", "recycled", "grown", "shrunk", "members closed", "resizes refused"]
    result = Result(table=[head])
    for room, runs in found.items():
        calls, failed, recycled, grown, shrunk, drained = (
            sum(run[of] for run in runs) for of in ("calls", "failed", "recycled", "grown", "shrunk", "drained")
        )
        cancelled = sum(run["errors"].get("CANCELLED", 0) for run in runs)
        refused = sum(len(run["resizes_refused"]) for run in runs)
        cells = (calls, failed, cancelled, recycled, grown, shrunk, drained, refused)
        result.table.append([room, *map(str, cells)])
        result.record.append({"room": room, "rounds": runs, "plain": plain[room]})
        result.figures += _judge(room, runs, plain[room])
    return result


def _judge(room: str, runs: list[dict[str, Any]], plain: list[dict[str, Any]]) -> list[Figure]:
    def worst(values: list[float], name: str, unit: str, note: str = "", bar: float | None = 0.0) -> Figure:
        return Figure(f"recycle, {room}: {name}", max(values), unit, bar, note=note)

    calls, recycled = (sum(run[of] for run in runs) for of in ("calls", "recycled"))
    errors = "; ".join(f"{code}: {text}" for run in runs for code, text in run["reasons"].items())
    failed = sum(run["failed"] for run in runs)
    cancelled = sum(run["errors"].get("CANCELLED", 0) for run in runs)
    native = ", ".join(f"{run['before']['native']} to {run['after']['native']}" for run in runs)
    plain_native = ", ".join(f"{run['before']} to {run['after']}" for run in plain)
    pool_growth = [per_thousand(run["memory"]) for run in runs]
    plain_growth = [per_thousand(run["memory"]) for run in plain]
    closed = ", ".join(str(run["drained"]) for run in runs)
    said = f"plain channels: {_list(plain_growth)}; {closed} members closed"
    return [
        worst(
            [failed], "failed", "calls", f"of {calls}, {recycled} members recycled" + (f"; {errors}" if errors else "")
        ),
        worst([cancelled], "cancelled", "calls"),
        worst([run["in_flight"] for run in runs], "in flight in the end", "calls"),
        worst([run["sockets_open"] - run["size"] for run in runs], "connections beyond the size in the end", ""),
        worst([run["after"]["sockets"] - run["before"]["sockets"] for run in runs], "connections left after close", ""),
        worst(
            [run["after"]["threads"] - run["before"]["threads"] for run in runs],
            "threads left after close",
            "",
            f"operating system: {native}; churn of plain channels: {plain_native}",
        ),
        worst(
            [statistics.median(pool_growth)],
            "memory per 1,000 members closed",
            "MiB",
            said,
            max(BAR_MEMORY, *plain_growth),
        ),
    ]


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values) + " MiB"
