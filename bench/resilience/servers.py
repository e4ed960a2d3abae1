"""Backends that answer after a while, and can be told to fail."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import grpc

from .. import fleet
from ..fleet import Backend, Fleet

__all__ = ["COUNT", "METHOD", "Work", "backends"]

METHOD = "/grpcpool.bench.Resilience/Call"

# A server that fails everything takes so long for it.
FAIL_AFTER = 0.001
# Calls that a server of the sync kind works on at once: several times what it is sent, also when others are away.
WORKERS = 48
COUNT = "count"

fleet.preload(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """How servers answer.

    Attributes:
        kind: ``"sync"`` (threads) or ``"aio"``.
        delay: seconds that a call takes.
        slow_share: the share of the calls, at random, that take `slow_delay` instead.
    """

    kind: str = "sync"
    delay: float = 0.01
    slow_share: float = 0.0
    slow_delay: float = 1.0


def backends(work: Work, ports: Sequence[int]) -> Fleet:
    """Return backends that are not started yet.

    The answer to a call is the backend's index, one byte. To `COUNT` a backend replies with how many calls have reached
    the application since the process was started; sent a name of a status, it answers every call with that from then
    on.

    Arguments:
        ports: on how many each listens.
    """
    return Fleet([Backend(_run, (index, work), count) for index, count in enumerate(ports)])


class _Application:
    def __init__(self, index: int, work: Work) -> None:
        self.answer = bytes([index])
        # As the message says it otherwise.
        self.signature = (("backend", str(index)),)
        self.code: grpc.StatusCode | None = None
        self._work = work
        self._rng = random.Random(index)
        self._numbers = itertools.count()

    def takes(self) -> float:
        """Count a call, and return for how many seconds to work on it."""
        next(self._numbers)
        if self.code is not None:
            return FAIL_AFTER
        work = self._work
        return work.slow_delay if self._rng.random() < work.slow_share else work.delay

    def hear(self, message: str) -> Any:
        """Do what a message asks for, and return what to reply."""
        if message == COUNT:
            # As many as were taken from it, for it counts from zero; and one number is lost by asking.
            count = next(self._numbers)
            self._numbers = itertools.count(count)
            return count
        self.code = grpc.StatusCode[message]
        return None


class _Stop(BaseException):
    """SIGTERM."""


def _run(index: int, work: Work, ports: list[int], pipe: Connection) -> None:
    application = _Application(index, work)
    if work.kind == "sync":
        _serve(application, ports, pipe)
    else:
        asyncio.run(_serve_aio(application, ports, pipe))


def _serve(application: _Application, ports: list[int], pipe: Connection) -> None:
    def work(request: bytes, context: grpc.ServicerContext) -> bytes:
        time.sleep(application.takes())
        if application.code is not None:
            context.set_trailing_metadata(application.signature)
            context.abort(application.code, "this backend fails every call")
        return application.answer

    def stop(number: int, frame: Any) -> None:
        raise _Stop

    signal.signal(signal.SIGTERM, stop)
    server = grpc.server(ThreadPoolExecutor(WORKERS), options=fleet.OPTIONS)
    bound = fleet.listen(server, METHOD, work, ports)
    server.start()
    try:
        pipe.send(bound)
        while True:
            pipe.send(application.hear(pipe.recv()))
    except (_Stop, EOFError):
        # The other end of the pipe is closed when whoever started this process is gone.
        server.stop(fleet.GRACE).wait()


async def _serve_aio(application: _Application, ports: list[int], pipe: Connection) -> None:
    async def work(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(application.takes())
        if application.code is not None:
            context.set_trailing_metadata(application.signature)
            await context.abort(application.code, "this backend fails every call")
        return application.answer

    over = asyncio.Event()

    def hear() -> None:
        try:
            pipe.send(application.hear(pipe.recv()))
        except EOFError:
            over.set()

    server = grpc.aio.server(options=fleet.OPTIONS)
    bound = fleet.listen(server, METHOD, work, ports)
    await server.start()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    loop.add_reader(pipe.fileno(), hear)
    pipe.send(bound)
    await over.wait()
    loop.remove_reader(pipe.fileno())
    await fleet.end(server)
