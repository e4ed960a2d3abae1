"""More calls at once than the server's stream limit allows: 100 for each connection, calls of 50 ms.

700 at once on eight connections, by a pool that keeps below the limit, by core's own connection scaling, and on a plain
channel; and 800 at once on two connections, four times what fits, beside the same load at a server without a limit.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from typing import Any

from grpcpool.testing import ServerProcess

from ..report import Figure
from .calls import unary, unary_aio
from .clients import ROOMS, Client, opened, opened_aio, scaled
from .isolated import isolated
from .load import tasks, threads
from .plan import Plan, Result

__all__ = ["TITLE", "case", "measure"]

TITLE = "the server's stream limit: 100, calls of 50 ms"

LIMIT = 100
DELAY = 0.05
CAP = 90
POOL = Client(f"pool of 8, cap {CAP}", {"size": 8, "max_concurrent_streams": CAP})
SCALED = Client("core with 8 connections", options=scaled(8))
PLAIN = Client("plain channel")
NARROW = Client(f"pool of 2, cap {CAP}", {"size": 2, "max_concurrent_streams": CAP})
FREE = Client("pool of 2, no limit anywhere", {"size": 2})
# As many callers as two connections have room for: nobody waits, and what these reach no queue can better.
FILLED = Client(f"pool of 2, {2 * CAP} callers", {"size": 2, "max_concurrent_streams": CAP})
# What each has to carry at once.
WIDE_LOAD, NARROW_LOAD = 700, 800
LOADS = {
    POOL: WIDE_LOAD,
    SCALED: WIDE_LOAD,
    PLAIN: WIDE_LOAD,
    NARROW: NARROW_LOAD,
    FREE: NARROW_LOAD,
    FILLED: 2 * CAP,
}
# Nobody can do more with two connections and this cap.
MOST = 2 * CAP / DELAY
# Calls wait for several times as long as they take, so the first second is none like the others.
WARM_UP = 1.0


def case(
    room: str, client: dict[str, Any], target: str, server: int, concurrent: int, seconds: float
) -> dict[str, Any]:
    """Run one contender once."""
    return (_sync if room == "sync" else _aio)(Client(**client), target, server, concurrent, seconds)


def _sync(client: Client, target: str, server: int, concurrent: int, seconds: float) -> dict[str, Any]:
    with opened(client, target) as channel:
        load = threads([unary(channel)] * concurrent, seconds, warm_up=WARM_UP, server=server)
        return {**load.summary(), **_pool(client, channel)}


def _aio(client: Client, target: str, server: int, concurrent: int, seconds: float) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with opened_aio(client, target) as channel:
            load = await tasks([unary_aio(channel)] * concurrent, seconds, warm_up=WARM_UP, server=server)
            return {**load.summary(), **_pool(client, channel)}

    return asyncio.run(run())


def _pool(client: Client, channel: Any) -> dict[str, Any]:
    if client.pool is None:
        return {}
    stats = channel.stats()
    return {"in_flight": stats.in_flight, "again": stats.resent}


def measure(plan: Plan) -> Result:
    """Run everybody in turn, in both rooms."""
    rounds, seconds = plan.how_often(3), plan.how_long(5.0, 2.0)
    found: dict[tuple[str, Client], list[dict[str, Any]]] = {(room, one): [] for room in ROOMS for one in LOADS}
    options = {"grpc.max_concurrent_streams": LIMIT}
    with ServerProcess(delay=DELAY, options=options) as limited, ServerProcess(delay=DELAY) as unlimited:
        for number in range(rounds):
            for room, client in list(found)[:: 1 if number % 2 == 0 else -1]:
                server = unlimited if client is FREE else limited
                where = {"target": server.target, "server": server.pid}
                print(f"limit, round {number + 1} of {rounds}: {room}, {client.name}", file=sys.stderr)
                run = isolated("limit", seconds, room=room, client=client.to_json(), concurrent=LOADS[client], **where)
                found[room, client].append(run)
    result = Result(table=[_HEAD])
    for (room, client), runs in found.items():
        result.table.append(_row(room, client, runs))
        result.record.append({"room": room, "client": client.name, "concurrent": LOADS[client], "rounds": runs})
    for room in ROOMS:
        result.figures += _judge(room, {client: found[room, client] for client in LOADS})
    return result


def _judge(room: str, found: dict[Client, list[dict[str, Any]]]) -> list[Figure]:
    bars = {POOL: 0.0, SCALED: None, PLAIN: None, NARROW: 0.0, FREE: 0.0, FILLED: 0.0}
    figures = []
    for client, runs in found.items():
        failed, calls = sum(run["failed"] for run in runs), sum(run["calls"] for run in runs)
        note = f"of {calls} ({100 * failed / calls:.2f} %)"
        name = f"limit, {room}: {client.name}, {LOADS[client]} at once: failed"
        figures.append(Figure(name, failed, "calls", bars[client], note=note))
    goodput = {client: [run["goodput"] for run in runs] for client, runs in found.items()}
    ratios = [theirs / ours for ours, theirs in zip(goodput[POOL], goodput[SCALED], strict=True)]
    note = f"{_range(ratios)}; {_median(goodput[SCALED])} / {_median(goodput[POOL])} calls/s"
    figures.append(Figure(f"limit, {room}: goodput, {SCALED.name} / {POOL.name}", _middle(ratios), "×", 1.0, note=note))
    possible = [min(MOST, free) for free in goodput[FREE]]
    ratios = [most / ours for ours, most in zip(goodput[NARROW], possible, strict=True)]
    note = f"{_range(ratios)}; {_median(possible)} / {_median(goodput[NARROW])} calls/s; 2 × {CAP} streams: {MOST:.0f}"
    figures.append(
        Figure(f"limit, {room}: goodput, what is possible / {NARROW.name}", _middle(ratios), "×", 1 / 0.9, note=note)
    )
    ratios = [filled / ours for ours, filled in zip(goodput[NARROW], goodput[FILLED], strict=True)]
    note = f"{_range(ratios)}; {_median(goodput[FILLED])} / {_median(goodput[NARROW])} calls/s"
    figures.append(Figure(f"limit, {room}: goodput, {FILLED.name} / {NARROW.name}", _middle(ratios), "×", note=note))
    return figures


def _middle(values: list[float]) -> float:
    return statistics.median(values)


def _median(values: list[float]) -> str:
    return f"{_middle(values):.0f}"


def _range(values: list[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}"


_HEAD = [
    "room",
    "contender",
    "at once",
    "goodput/s",
    "failed %",
    "client CPU %",
    "µs/call",
    "server CPU %",
    "p50 ms",
    "p99 ms",
    "sent again",
    "errors",
]


def _row(room: str, client: Client, runs: list[dict[str, Any]]) -> list[str]:
    def cell(of: str, scale: float = 1.0, digits: int = 0) -> str:
        values = [run[of] * scale for run in runs if run[of] is not None]
        if not values:
            return "-"
        least, greatest = (f"{value:.{digits}f}" for value in (min(values), max(values)))
        return f"{_middle(values):.{digits}f}" + (f" ({least}..{greatest})" if least != greatest else "")

    errors: dict[str, int] = {}
    for run in runs:
        for code, count in run["errors"].items():
            errors[code] = errors.get(code, 0) + count
    calls, failed = sum(run["calls"] for run in runs), sum(run["failed"] for run in runs)
    again = str(sum(run["again"] for run in runs)) if client.pool else "-"
    said = ", ".join(f"{code} {count}" for code, count in errors.items()) or "none"
    return [
        room,
        client.name,
        str(LOADS[client]),
        cell("goodput"),
        f"{100 * failed / calls:.2f}",
        cell("cpu", 100),
        cell("cpu_per_call", 1e6),
        cell("server_cpu", 100),
        cell("p50", 1e3),
        cell("p99", 1e3),
        again,
        f"{said} of {calls}",
    ]
