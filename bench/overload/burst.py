"""A burst out of nothing: 1,000 calls at once, for a pool of one member that may have sixteen, and for one that has.

The server's limit is 100, the pools' cap 90, and calls take 50 ms. When the load ends, the pool of varying size goes
back to one member: by a quarter at a time, one at least, every `scale_down_interval`.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import sys
import time
from typing import Any

from grpcpool.testing import ServerProcess

from ..report import Figure
from .calls import unary, unary_aio
from .clients import ROOMS, Client, opened, opened_aio
from .isolated import isolated
from .load import Load, percentile, tasks, threads
from .plan import Plan, Result
from .resizes import UNSAMPLED, Resizes

__all__ = ["TITLE", "case", "measure"]

TITLE = "0 to 1,000 calls at once"

CONCURRENT = 1000
DELAY = 0.05
LIMIT, CAP = 100, 90
LEAST, MOST = 1, 16
LOW, HIGH = 20, 80
INTERVAL = 1.0
VARYING = Client(
    f"pool of {LEAST} to {MOST}",
    {
        "min_size": LEAST,
        "max_size": MOST,
        "target_in_flight": [LOW, HIGH],
        "scale_down_interval": INTERVAL,
        "max_concurrent_streams": CAP,
        **UNSAMPLED,
    },
)
FIXED = Client(f"pool of {MOST}", {"size": MOST, "max_concurrent_streams": CAP, **UNSAMPLED})
CLIENTS = (VARYING, FIXED)
# Of the pool of varying size, for the time until it is back; what it should take is `_stated`. The pool looks about
# ten times a second, so each step may be that much late.
BAR_BACK = 1.25
BAR_LATENCY = 2.0
# When that has gone wrong.
PATIENCE = 3.0
LOOK = 0.05


def case(room: str, client: dict[str, Any], target: str, seconds: float) -> dict[str, Any]:
    """Run one contender once."""
    return (_sync if room == "sync" else _aio)(Client(**client), target, seconds)


def _sync(client: Client, target: str, seconds: float) -> dict[str, Any]:
    with opened(client, target) as pool:
        call, resizes = unary(pool), Resizes()
        pool.add_listener(resizes)
        call()
        resizes.start()
        load = threads([call] * CONCURRENT, seconds, warm_up=0.0)
        settled = pool.status().expected_size
        return {**_summary(load, resizes), "settled": settled, **_back(pool)}


def _aio(client: Client, target: str, seconds: float) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with opened_aio(client, target) as pool:
            call, resizes = unary_aio(pool), Resizes()
            pool.add_listener(resizes)
            await call()
            resizes.start()
            load = await tasks([call] * CONCURRENT, seconds, warm_up=0.0)
            settled = pool.status().expected_size
            return {**_summary(load, resizes), "settled": settled, **await asyncio.to_thread(_back, pool)}

    return asyncio.run(run())


def _back(pool: Any) -> dict[str, Any]:
    """Wait until the pool, which is idle now, has as few members as it may, and return the seconds and the size."""
    least = pool.config.min_size or pool.config.size
    begun = time.monotonic()
    while pool.status().expected_size > least and time.monotonic() - begun < PATIENCE * _stated():
        time.sleep(LOOK)
    return {"back": time.monotonic() - begun, "size": pool.status().expected_size}


def _summary(load: Load, resizes: Resizes) -> dict[str, Any]:
    first = load.latencies(0.0, 1.0)
    return {
        **load.summary(),
        "first_calls": len(first),
        "first_p50": percentile(first, 50),
        "first_p99": percentile(first, 99),
        "resizes": resizes.found,
    }


def _stated() -> float:
    """Return how long it takes from the most members to the least, at a quarter (one at least) an interval."""
    size, steps = MOST, 0
    while size > LEAST:
        size, steps = max(size - max(size // 4, 1), LEAST), steps + 1
    return steps * INTERVAL


def _off(size: int) -> int:
    """Return how many members there are too few, or too many, for the load and the band."""
    fewest, most = math.ceil(CONCURRENT / HIGH), min(MOST, CONCURRENT // LOW)
    return max(fewest - size, size - most, 0)


def measure(plan: Plan) -> Result:
    """Run everybody in turn, in both rooms."""
    rounds, seconds = plan.how_often(3), plan.how_long(4.0, 2.5)
    found: dict[tuple[str, Client], list[dict[str, Any]]] = {(room, one): [] for room in ROOMS for one in CLIENTS}
    with ServerProcess(delay=DELAY, options={"grpc.max_concurrent_streams": LIMIT}) as server:
        for number in range(rounds):
            for room, client in list(found)[:: 1 if number % 2 == 0 else -1]:
                print(f"burst, round {number + 1} of {rounds}: {room}, {client.name}", file=sys.stderr)
                run = isolated("burst", seconds, room=room, client=client.to_json(), target=server.target)
                found[room, client].append(run)
    head = ["room", "contender", "goodput/s", "first second: calls", "p50 ms", "p99 ms", "failed", "sizes at seconds"]
    result = Result(table=[head])
    for (room, client), runs in found.items():
        result.record.append({"room": room, "client": client.name, "rounds": runs})
        cells = [f"{statistics.median(run['goodput'] for run in runs):.0f}"]
        cells += [_spread([run["first_calls"] for run in runs])]
        cells += [_spread([run[of] * 1e3 for run in runs]) for of in ("first_p50", "first_p99")]
        cells += [f"{sum(run['failed'] for run in runs)} of {sum(run['calls'] for run in runs)}"]
        cells += [", ".join(f"{size} at {when:.2f}" for when, size in runs[-1]["resizes"]) or "-"]
        result.table.append([room, client.name, *cells])
    for room in ROOMS:
        result.figures += _judge(room, found[room, VARYING], found[room, FIXED])
    return result


def _judge(room: str, varying: list[dict[str, Any]], fixed: list[dict[str, Any]]) -> list[Figure]:
    figures = []
    for client, runs in ((VARYING, varying), (FIXED, fixed)):
        note = f"of {sum(run['calls'] for run in runs)}"
        failed = sum(run["failed"] for run in runs)
        figures.append(Figure(f"burst, {room}: {client.name}: failed", failed, "calls", 0.0, note=note))
    sizes = ", ".join(str(run["settled"]) for run in varying)
    off = max(_off(run["settled"]) for run in varying)
    figures.append(
        Figure(
            f"burst, {room}: members too few or too many in the end", off, "members", 0.0, note=f"settled at {sizes}"
        )
    )
    ratios = [one["first_p99"] / other["first_p99"] for one, other in zip(varying, fixed, strict=True)]
    name = f"burst, {room}: p99 of the first second, {VARYING.name} / {FIXED.name}"
    figures.append(Figure(name, statistics.median(ratios), "×", BAR_LATENCY, note=_spread(ratios, 2)))
    backs = [run["back"] if run["size"] == LEAST else math.inf for run in varying]
    note = f"{_spread(backs, 1)} s; stated: {_stated():g} s"
    name = f"burst, {room}: time until it has {LEAST} member again / stated"
    figures.append(Figure(name, max(backs) / _stated(), "×", BAR_BACK, note=note))
    return figures


def _spread(values: list[float], digits: int = 0) -> str:
    least, greatest = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return f"{statistics.median(values):.{digits}f}" + (f" ({least}..{greatest})" if least != greatest else "")
