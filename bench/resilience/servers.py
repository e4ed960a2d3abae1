"""Servers in processes of their own, to be killed, stopped, restarted, and told how to answer."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["METHOD", "Backend", "Fleet", "Work"]

METHOD = "/grpcpool.bench.Resilience/Call"

# Seconds. A start takes some hundredths of one, so that this much means never.
START_TIMEOUT = 30.0
# What a server that is asked to end grants to running calls.
GRACE = 2.0
# A server that fails everything takes so long for it.
FAIL_AFTER = 0.001
# Calls that a server of the sync kind works on at once: several times what it is sent, also when others are away.
WORKERS = 48
COUNT = "count"

# New processes are copies of one that has imported everything and started nothing: they are up at once, and cost no
# import in the middle of a measurement.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


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


class Backend:
    """A server process that listens on one port or several. It can be ended and started again on these.

    The answer to a call is the backend's index, one byte.
    """

    def __init__(self, index: int, work: Work, ports: int) -> None:
        self._index = index
        self._work = work
        self._process: Any = None
        self._pipe: Connection | None = None
        self.ports = [0] * ports

    @property
    def targets(self) -> list[str]:
        """Host and port of each."""
        return [f"127.0.0.1:{port}" for port in self.ports]

    def start(self) -> None:
        """Start the process; `wait` says when it serves."""
        self._pipe, theirs = _CONTEXT.Pipe()
        arguments = (self._index, self._work, self.ports, theirs)
        self._process = _CONTEXT.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def wait(self) -> None:
        """Return when it serves."""
        self.ports = self._receive()

    def freeze(self) -> None:
        """Stop the process: connections stay, and so does what is in them."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a process that was stopped go on."""
        os.kill(self._process.pid, signal.SIGCONT)

    def fail(self, code: str) -> None:
        """Answer everything with this status from now on."""
        assert self._pipe is not None
        self._pipe.send(code)
        self._receive()

    def count(self) -> int:
        """Return how many calls have reached the application since the process was started."""
        assert self._pipe is not None
        self._pipe.send(COUNT)
        count: int = self._receive()
        return count

    def kill(self) -> None:
        """End the process at once, in whatever state it is; return when it is gone."""
        if self._process is not None:
            self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, which it does gracefully; return when it is gone."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)
        self._process.join()
        self._process.close()
        self._process = None
        assert self._pipe is not None
        self._pipe.close()

    def _receive(self) -> Any:
        assert self._pipe is not None
        if not self._pipe.poll(START_TIMEOUT):
            raise RuntimeError(f"backend {self._index} has said nothing for {START_TIMEOUT:g} s")
        return self._pipe.recv()


class Fleet:
    """The backends of one run. A context manager.

    Arguments:
        ports: on how many each listens.
    """

    def __init__(self, work: Work, ports: tuple[int, ...]) -> None:
        self.backends = [Backend(index, work, count) for index, count in enumerate(ports)]

    def __enter__(self) -> Self:
        try:
            for backend in self.backends:
                backend.start()
            for backend in self.backends:
                backend.wait()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._kill()

    def _kill(self) -> None:
        for backend in self.backends:
            backend.kill()


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
    # Ctrl-C is for whoever measures; that process then ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    application = _Application(index, work)
    if work.kind == "sync":
        _serve(application, ports, pipe)
    else:
        asyncio.run(_serve_aio(application, ports, pipe))


# With SO_REUSEPORT a new server could share a port with one that is about to end.
_OPTIONS = [("grpc.so_reuseport", 0)]


def _bind(server: Any, handler: grpc.RpcMethodHandler[bytes, bytes], ports: list[int]) -> list[int]:
    _, service, method = METHOD.split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    return [server.add_insecure_port(f"127.0.0.1:{port}") for port in ports]


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
    server = grpc.server(ThreadPoolExecutor(WORKERS), options=_OPTIONS)
    bound = _bind(server, grpc.unary_unary_rpc_method_handler(work), ports)
    server.start()
    try:
        pipe.send(bound)
        while True:
            pipe.send(application.hear(pipe.recv()))
    except (_Stop, EOFError):
        # The other end of the pipe is closed when whoever started this process is gone.
        server.stop(GRACE).wait()


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

    server = grpc.aio.server(options=_OPTIONS)
    bound = _bind(server, grpc.unary_unary_rpc_method_handler(work), ports)
    await server.start()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    loop.add_reader(pipe.fileno(), hear)
    pipe.send(bound)
    await over.wait()
    loop.remove_reader(pipe.fileno())
    await server.stop(GRACE)
    # grpc.aio lets go of a call that came in at the last moment; leaving now would cancel it.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=GRACE)
