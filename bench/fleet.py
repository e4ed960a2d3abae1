"""Servers in processes of their own, to be killed, frozen, ended, started again, and told what to do."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["GRACE", "OPTIONS", "Backend", "Fleet", "end", "listen", "preload"]

# Seconds. A start takes some hundredths of one, so that this much means never.
PATIENCE = 30.0
# What a server that is asked to end grants to running calls.
GRACE = 2.0
# With SO_REUSEPORT a new server could share a port with one that is about to end.
OPTIONS = [("grpc.so_reuseport", 0)]

# New processes are copies of one that has imported everything and started nothing: they are up at once, and cost no
# import in the middle of a measurement.
_CONTEXT = multiprocessing.get_context("forkserver")


def preload(module: str) -> None:
    """Have the module that servers are made of imported before the first of them starts; the last one asked for."""
    _CONTEXT.set_forkserver_preload([module])


class Backend:
    """A server process that listens on one port or several. It can be ended and started again on these.

    Arguments:
        serve: what it runs, as ``serve(*arguments, ports, pipe)``. It listens on the ports, 0 for any, says by the pipe
            which those are, and ends gracefully at a SIGTERM, or when the pipe's other end is closed, which it is when
            whoever started the process is gone.
        arguments: for that. They are pickled, as `serve` is.
        ports: how many.
    """

    def __init__(self, serve: Callable[..., object], arguments: Sequence[object], ports: int = 1) -> None:
        self._serve = serve
        self._arguments = arguments
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
        arguments = (self._serve, *self._arguments, self.ports, theirs)
        self._process = _CONTEXT.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def wait(self) -> None:
        """Return when it serves."""
        self.ports = self._receive()

    def ask(self, message: object) -> Any:
        """Send it a message, and return what it replies. For servers that listen to their pipes."""
        assert self._pipe is not None
        self._pipe.send(message)
        return self._receive()

    def freeze(self) -> None:
        """Stop the process: connections stay, and so does what is in them."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a process that was stopped go on."""
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once, in whatever state it is, and return when it is gone; fine if there is none."""
        if self._process is not None:
            self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, which it does gracefully; return when it is gone."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        # None: it could not be started.
        if self._process.pid is not None:
            os.kill(self._process.pid, number)
            self._process.join()
        self._process.close()
        self._process = None
        assert self._pipe is not None
        self._pipe.close()

    def _receive(self) -> Any:
        assert self._pipe is not None
        if not self._pipe.poll(PATIENCE):
            raise RuntimeError(f"backend {self._arguments} has said nothing for {PATIENCE:g} s")
        return self._pipe.recv()


class Fleet:
    """Backends that are started and ended together. A context manager."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.backends = backends

    @property
    def targets(self) -> list[str]:
        """Where they listen, all of them."""
        return [target for backend in self.backends for target in backend.targets]

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


def _run(serve: Callable[..., object], *arguments: Any) -> None:
    # Ctrl-C is for whoever measures; that process then ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(*arguments)


def listen(server: Any, path: str, work: Callable[[bytes, Any], object], ports: Sequence[int]) -> list[int]:
    """Have a server answer calls of one unary method, and listen on these ports; return which those are."""
    _, service, method = path.split("/")
    handler: Any = grpc.unary_unary_rpc_method_handler(work)  # type: ignore[arg-type]
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    return [server.add_insecure_port(f"127.0.0.1:{port}") for port in ports]


async def end(server: grpc.aio.Server) -> None:
    """End an aio server gracefully."""
    await server.stop(GRACE)
    # grpc.aio lets go of a call that came in at the last moment; leaving now would cancel it.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=GRACE)
