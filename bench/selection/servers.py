"""Ten backends, each a gRPC server in a process of its own."""

from __future__ import annotations

import asyncio
import signal
from multiprocessing.connection import Connection
from typing import Any

import grpc

from .. import fleet
from ..fleet import Backend, Fleet
from .scenarios import BACKENDS, SPECIAL, WORKERS, Disturbance, Scenario

__all__ = ["METHOD", "backends", "disturb"]

METHOD = "/grpcpool.bench.Selection/Call"

# From the end of one restart to the begin of the next. Clients wait about a second between two attempts to connect, so
# that one or two backends are away at any time.
PAUSE = 0.4

fleet.preload(__name__)


def backends(scenario: Scenario) -> Fleet:
    """Return the backends of a scenario, not started yet.

    Each takes `WORKERS` calls at once, first come, first served. A request says how many seconds of work it is; the
    answer is the backend's index, one byte.
    """
    ways = [(1.0, False)] * BACKENDS
    ways[SPECIAL] = (scenario.slowness, scenario.fails)
    return Fleet([Backend(_run, (index, *way)) for index, way in enumerate(ways)])


async def disturb(those: Fleet, disturbance: Disturbance, over: asyncio.Event) -> None:
    """Do to the backends what the scenario says, and return when that is done, or soon after `over` is set."""
    if disturbance is Disturbance.HANG:
        those.backends[SPECIAL].freeze()
    elif disturbance is Disturbance.RESTART:
        for backend in those.backends:
            if over.is_set():
                break
            await asyncio.to_thread(_restart, backend)
            await asyncio.sleep(PAUSE)


def _restart(backend: Backend) -> None:
    backend.stop()
    backend.start()
    backend.wait()


def _run(*arguments: Any) -> None:
    asyncio.run(_serve(*arguments))


async def _serve(index: int, slowness: float, fails: bool, ports: list[int], pipe: Connection) -> None:
    answer = bytes([index])
    workers = asyncio.Semaphore(WORKERS)

    async def work(request: bytes, context: Any) -> bytes:
        if fails:
            # Says whose answer this is, as the message does otherwise.
            context.set_trailing_metadata((("backend", str(index)),))
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this backend fails every call")
        async with workers:
            await asyncio.sleep(float(request) * slowness)
        return answer

    server = grpc.aio.server(options=fleet.OPTIONS)
    bound = fleet.listen(server, METHOD, work, ports)
    await server.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    # Nothing is ever sent to a server: its pipe becomes readable when whoever started it is gone.
    loop.add_reader(pipe.fileno(), stop.set)
    pipe.send(bound)
    await stop.wait()
    await fleet.end(server)
