"""What the tests of a pool's life share: RPCs that last, primers that misbehave, interceptors that count."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
import psutil

from grpcpool import events
from grpcpool.testing import ECHO, ServerProcess

from .flavours import Pool
from .waiting import connections, until

MakeServer = Callable[..., ServerProcess]
MakePrimer = Callable[..., "Primer"]
E = TypeVar("E", bound=events.Event)

# A grace or timeout that no test means to see the end of, and what "at once" means beside it, in seconds: much
# more than the time (5 s) that is granted to user code that clings to its life.
LONG = 60.0
AT_ONCE = 30.0


def in_background(pool: Pool, count: int, *, delay: float) -> list[Any]:
    """Make unary RPCs that may have to wait in line, and return their futures."""
    method, metadata = pool.method("Unary"), (("delay", str(delay)),)
    return [pool.flavour.in_background(method, b"x", metadata=metadata, timeout=LONG) for _ in range(count)]


def endless(pool: Pool) -> Any:
    """Return a stream that has begun, and does not end by itself."""
    stream = pool.begin_stream(metadata=(("count", "100000"), ("gap", "0.02")))
    assert pool.flavour.read(stream) == b"x"
    return stream


def of(kind: type[E], heard: list[events.Event]) -> list[E]:
    """Return the events of that kind."""
    return [event for event in heard.copy() if isinstance(event, kind)]


def states(pool: Pool) -> list[str]:
    return sorted(member.state for member in pool.stats().members)


def in_size(pool: Pool, server: ServerProcess, size: int) -> float:
    """Wait until the pool and the operating system agree on the size."""
    return until(lambda: pool.stats().size == len(pool.stats().members) == connections(server.port) == size)


def local_ports(server: ServerProcess) -> set[int]:
    """Return this process's ends of its connections to the server."""
    found = psutil.Process().net_connections(kind="tcp")
    return {c.laddr.port for c in found if c.raddr and c.raddr.port == server.port}


class Primer:
    """A primer for either pool: makes an RPC, and then waits for `gate` if that is closed.

    Attributes:
        runs: how often it was called.
        answers: what its RPCs brought.
        failures: so many runs raise, beginning with the first.
        stuck: so many runs never return, beginning with the first.
        habit: how: one waits for something else, one for its RPC, and one clings to its life when it is cancelled.
        over: ends those that never return, for the test is over.
    """

    def __init__(self, *, failures: int = 0, stuck: int = 0, habit: str = "waits") -> None:
        self.runs = 0
        self.answers: list[bytes] = []
        self.failures = failures
        self.stuck = stuck
        self.habit = habit
        self.gate, self.over = threading.Event(), threading.Event()
        self.gate.set()

    def _begin(self) -> tuple[threading.Event | None, Any]:
        """Return what to wait for instead of an RPC, and the metadata of that RPC."""
        self.runs += 1
        if self.runs <= self.failures:
            raise LookupError(f"{self.runs} is not enough")
        if self.runs > self.stuck:
            return None, ()
        return (None, (("delay", "30"),)) if self.habit == "calls" else (self.over, ())

    def sync(self, channel: Any) -> None:
        instead, metadata = self._begin()
        if instead is None:
            self.answers.append(channel.unary_unary(f"{ECHO}Unary")(b"warm", metadata=metadata))
        (instead or self.gate).wait()

    async def aio(self, channel: Any) -> None:
        instead, metadata = self._begin()
        if instead is None:
            self.answers.append(await channel.unary_unary(f"{ECHO}Unary")(b"warm", metadata=metadata))
        while not (instead or self.gate).is_set():
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                if self.habit != "clings":
                    raise


class SyncCount(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    calls = 0

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.calls += 1
        return continuation(client_call_details, request)


class AioCount(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    calls = 0

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.calls += 1
        return await continuation(client_call_details, request)


COUNTS: dict[str, Any] = {"sync": SyncCount, "aio": AioCount}
