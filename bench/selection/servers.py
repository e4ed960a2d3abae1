"""Ten backends, each a gRPC server in a process of its own."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import grpc

from .scenarios import BACKENDS, SPECIAL, WORKERS, Disturbance, Scenario

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["METHOD", "Backend", "Fleet"]

METHOD = "/grpcpool.bench.Selection/Call"

# Seconds. A start takes some hundredths of one, so that this much means never.
START_TIMEOUT = 30.0
# What a backend that is asked to end grants to running calls.
GRACE = 2.0
# From the end of one restart to the begin of the next. Clients wait about a second between two attempts to connect, so
# that one or two backends are away at any time.
PAUSE = 0.4

# New processes are copies of one that has imported everything and started nothing: they are up at once, also in the
# middle of a measurement, and cost no import then.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


class Backend:
    """One server process. It can be ended and started again on its port.

    It takes `WORKERS` calls at once, first come, first served. A request says how many seconds of work it is; the
    answer is the backend's index, one byte.

    Arguments:
        index: 0 to 255.
        slowness: how many times longer than the request says the work takes.
        fails: answer UNAVAILABLE to everything, at once.
    """

    def __init__(self, index: int, slowness: float, fails: bool) -> None:
        self._settings = (index, slowness, fails)
        self._process: Any = None
        self._pipe: Connection | None = None
        self.port = 0

    @property
    def target(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process; `wait` says when it serves."""
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_run, args=(*self._settings, self.port, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def wait(self) -> None:
        """Return when it serves."""
        assert self._pipe is not None
        if not self._pipe.poll(START_TIMEOUT):
            raise RuntimeError(f"backend {self._settings[0]} did not start within {START_TIMEOUT:g} s")
        self.port = self._pipe.recv()

    def freeze(self) -> None:
        """Stop the process: connections stay, and so does what is in them."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def restart(self) -> None:
        """End it gracefully, start it again, and return when it serves."""
        self._end(signal.SIGTERM)
        self.start()
        self.wait()

    def kill(self) -> None:
        """End the process at once, in whatever state it is."""
        if self._process is not None:
            self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)
        self._process.join()
        self._process.close()
        self._process = None
        assert self._pipe is not None
        self._pipe.close()


class Fleet:
    """The backends of a scenario. A context manager."""

    def __init__(self, scenario: Scenario) -> None:
        self._disturbance = scenario.disturbance
        self._backends = [
            Backend(
                index,
                scenario.slowness if index == SPECIAL else 1.0,
                scenario.fails and index == SPECIAL,
            )
            for index in range(BACKENDS)
        ]

    @property
    def targets(self) -> list[str]:
        """Where they listen."""
        return [backend.target for backend in self._backends]

    async def disturb(self, over: asyncio.Event) -> None:
        """Do to the backends what the scenario says, and return when that is done, or soon after `over` is set."""
        if self._disturbance is Disturbance.HANG:
            self._backends[SPECIAL].freeze()
        elif self._disturbance is Disturbance.RESTART:
            for backend in self._backends:
                if over.is_set():
                    break
                await asyncio.to_thread(backend.restart)
                await asyncio.sleep(PAUSE)

    def __enter__(self) -> Self:
        try:
            for backend in self._backends:
                backend.start()
            for backend in self._backends:
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
        for backend in self._backends:
            backend.kill()


def _run(index: int, slowness: float, fails: bool, port: int, pipe: Connection) -> None:
    # Ctrl-C is for whoever measures; that process then ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(index, slowness, fails, port, pipe))


async def _serve(index: int, slowness: float, fails: bool, port: int, pipe: Connection) -> None:
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

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(work)
    _, service, method = METHOD.split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    # Nothing is ever sent to a server: its pipe becomes readable when whoever started it is gone.
    loop.add_reader(pipe.fileno(), stop.set)
    pipe.send(bound)
    await stop.wait()
    await server.stop(GRACE)
    # grpc.aio lets go of a call that came in at the last moment; leaving now would cancel it.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=GRACE)
