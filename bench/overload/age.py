"""A server that ends every connection after a second (GOAWAY), and lets the calls on it finish: 30 s of mixed load.

Nobody retries here: what the pool has sent is counted. By itself grpc sends a call again that cannot have reached the
server, on a plain channel as well; what happens if even that is switched off is shown beside it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from grpcpool.testing import ServerProcess

from ..report import Figure
from .calls import bidi, bidi_aio, stream, stream_aio, unary, unary_aio
from .clients import ROOMS, Client, opened, opened_aio
from .isolated import isolated
from .load import tasks, threads
from .plan import Plan, Result
from .watch import Connections

__all__ = ["TITLE", "case", "measure"]

TITLE = "the server's connections live for 1 s (GOAWAY every second)"

AGE = 1.0
# Longer than any call takes: what is cut is then not the server's doing.
GRACE = 10.0
DELAY = 0.02
# Not even those that grpc calls transparent.
NO_RETRIES = [("grpc.enable_retries", 0)]
POOL = Client("pool of 4", {"size": 4})
STRICT = Client("pool of 4, no transparent retries", {"size": 4}, NO_RETRIES)
PLAIN = Client("plain channel")
STRICT_PLAIN = Client("plain channel, no transparent retries", options=NO_RETRIES)
CLIENTS = (POOL, STRICT, PLAIN, STRICT_PLAIN)
# Callers. Light enough for two cores: who starves answers no GOAWAY.
UNARY, STREAM, BIDI = 12, 6, 2


def case(room: str, client: dict[str, Any], target: str, server: int, seconds: float) -> dict[str, Any]:
    """Run one contender once."""
    return (_sync if room == "sync" else _aio)(Client(**client), target, server, seconds)


def _sync(client: Client, target: str, server: int, seconds: float) -> dict[str, Any]:
    with opened(client, target) as channel:
        calls = [unary(channel)] * UNARY + [stream(channel)] * STREAM + [bidi(channel)] * BIDI
        with Connections(target) as connections:
            load = threads(calls, seconds, warm_up=0.0, server=server)
        return {**load.summary(), "connections": len(connections.seen), **_pool(client, channel, load.calls)}


def _aio(client: Client, target: str, server: int, seconds: float) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with opened_aio(client, target) as channel:
            calls = [unary_aio(channel)] * UNARY + [stream_aio(channel)] * STREAM + [bidi_aio(channel)] * BIDI
            with Connections(target) as connections:
                load = await tasks(calls, seconds, warm_up=0.0, server=server)
            return {**load.summary(), "connections": len(connections.seen), **_pool(client, channel, load.calls)}

    return asyncio.run(run())


def _pool(client: Client, channel: Any, made: int) -> dict[str, Any]:
    if client.pool is None:
        return {"again": 0}
    stats = channel.stats()
    return {"again": stats.calls - made, "in_flight": stats.in_flight}


def measure(plan: Plan) -> Result:
    """Run everybody in turn, in both rooms."""
    rounds, seconds = plan.how_often(1), plan.how_long(30.0, 6.0)
    found: dict[tuple[str, Client], list[dict[str, Any]]] = {(room, one): [] for room in ROOMS for one in CLIENTS}
    options = {"grpc.max_connection_age_ms": int(AGE * 1000), "grpc.max_connection_age_grace_ms": int(GRACE * 1000)}
    with ServerProcess(delay=DELAY, options=options) as server:
        for number in range(rounds):
            for room, client in list(found)[:: 1 if number % 2 == 0 else -1]:
                print(f"age, round {number + 1} of {rounds}: {room}, {client.name}", file=sys.stderr)
                where = {"target": server.target, "server": server.pid}
                found[room, client].append(isolated("age", seconds, room=room, client=client.to_json(), **where))
    result = Result(table=[["room", "contender", "calls", "failed", "sent again", "connections", "p99 ms", "errors"]])
    for (room, client), runs in found.items():
        calls, failed, again, connections = (
            sum(run[of] for run in runs) for of in ("calls", "failed", "again", "connections")
        )
        errors = "; ".join(f"{code}: {reason}" for run in runs for code, reason in run["reasons"].items()) or "none"
        slowest = f"{max(run['p99'] for run in runs) * 1e3:.0f}"
        result.table.append([room, client.name, *map(str, (calls, failed, again, connections)), slowest, errors])
        result.record.append({"room": room, "client": client.name, "rounds": runs})
        note = f"of {calls}, on {connections} connections one after the other"
        name = f"age, {room}: {client.name}"
        bar = 0.0 if client is POOL else None
        result.figures.append(Figure(f"{name}: failed", failed, "calls", bar, note=note))
        if client is POOL:
            result.figures.append(Figure(f"{name}: sent again", again, "calls", bar))
    return result
