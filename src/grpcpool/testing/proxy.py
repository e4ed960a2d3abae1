"""A TCP proxy: a way to a server that can be cut, blocked, narrowed and lengthened."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .background import HOST, Listener, LoopThread, Port, news, reset

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Proxy"]

TIMEOUT = 10.0
# Bytes that wait in one direction of a connection before no more are read.
HIGH = 1 << 18
# A narrow way passes what comes in pieces of so many seconds.
PIECE = 0.02


class Proxy:
    """Passes bytes between its clients and a server, until it is told to do otherwise. Needs nothing but Python.

        with Proxy(server.target) as proxy, grpc.insecure_channel(proxy.target) as channel:
            proxy.stall()

    What is set holds when the method returns, for the connections that are open and for new ones, until `heal`.
    Thread-safe. It does not survive a fork.

    Arguments:
        upstream: the server: a port of this machine, or ``"host:port"``.
        port: the TCP port of 127.0.0.1 to listen on; 0: any that is free.

    Raises:
        OSError: the port is taken.
        ValueError: `upstream` is not of that form.

    Attributes:
        port: see above.
        target: what a client connects to.
    """

    def __init__(self, upstream: int | str, port: int = 0) -> None:
        self._way = _Way(*_address(upstream))
        self._port = Port(port)
        self._thread: LoopThread | None = None
        self._listener: Listener | None = None
        self.port = self._port.number
        self.target = f"{HOST}:{self.port}"

    def __repr__(self) -> str:
        state = "refusing" if self._listener is None else "open"
        return (
            f"<Proxy {self.target} to {self._way.host}:{self._way.port}, {state}: {len(self._way.links)} connections>"
        )

    def start(self) -> Self:
        """Accept connections.

        Raises:
            RuntimeError: it was started before.
        """
        if self._thread is not None:
            raise RuntimeError("the proxy is running already")
        self._thread = LoopThread(f"Proxy {self.port}")
        self._thread.run(self._listen)
        return self

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = Listener(self._port.listener(), lambda: _Near(self._way))
            self._way.accepting = True
            news.tell()

    def _stop_listening(self) -> None:
        self._way.accepting = False
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        news.tell()

    def close(self) -> None:
        """Cut every connection, end the thread, and give the port up."""
        self._port.release()
        if self._thread is not None:
            self.refuse()
            self.cut()
            self._thread.close()
            self._thread = None

    def __enter__(self) -> Self:
        return self if self._thread is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- connections

    @property
    def connections(self) -> list[int]:
        """The clients' ports of the connections that are open, in the order in which they were opened."""
        return list(self._way.links)

    def cut(self, *, reset: bool = False) -> None:
        """Cut every connection, at both ends; new ones are accepted.

        Arguments:
            reset: by RST, and not by an orderly end (FIN).
        """

        def cut() -> None:
            for link in list(self._way.links.values()):
                link.cut(reset)

        self._run(cut)

    def cut_one(self, port: int, *, reset: bool = False) -> None:
        """Cut the connection of the client with this port, if it is open."""

        def cut() -> None:
            if (link := self._way.links.get(port)) is not None:
                link.cut(reset)

        self._run(cut)

    def refuse(self) -> None:
        """Refuse new connections; those that are open remain."""
        self._run(self._stop_listening)

    # --- what passes

    def stall(self) -> None:
        """Let nothing pass. Connections stay open, and new ones are accepted."""
        self._set(stalled=True)

    def resume(self) -> None:
        """Let pass what has come since `stall`, and everything from now on."""
        self._set(stalled=False)

    def throttle(self, bytes_per_second: float | None) -> None:
        """Let no more bytes pass, in each direction of each connection; None: as many as come.

        Raises:
            ValueError: not above 0.
        """
        if bytes_per_second is not None and bytes_per_second <= 0:
            raise ValueError(f"bytes_per_second: not above 0: {bytes_per_second!r}")
        self._set(rate=bytes_per_second or 0.0)

    def latency(self, seconds: float) -> None:
        """Let everything that comes from now on take so much longer in each direction.

        Raises:
            ValueError: below 0.
        """
        if seconds < 0:
            raise ValueError(f"seconds: below 0: {seconds!r}")
        self._set(latency=seconds)

    def heal(self) -> None:
        """Accept connections again, and let everything pass at once."""
        self._set(stalled=False, rate=0.0, latency=0.0)
        if self._thread is not None:
            self._thread.run(self._listen)

    def wait_for(self, condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
        """Block until a condition holds; see `FaultServer.wait_for`.

        Raises:
            TimeoutError: it did not hold in time.
        """
        news.wait_for(condition, timeout, lambda: repr(self))

    def _set(self, *, stalled: bool | None = None, rate: float | None = None, latency: float | None = None) -> None:
        def change() -> None:
            way = self._way
            way.stalled = way.stalled if stalled is None else stalled
            way.rate = way.rate if rate is None else rate
            way.latency = way.latency if latency is None else latency
            for link in way.links.values():
                link.pump()

        self._run(change)

    def _run(self, function: Callable[[], object]) -> None:
        if self._thread is None:
            function()
        else:
            self._thread.run(function)


def _address(upstream: int | str) -> tuple[str, int]:
    if isinstance(upstream, int):
        return "localhost", upstream
    host, _, port = upstream.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"upstream: neither a port nor 'host:port': {upstream!r}")
    return host.strip("[]"), int(port)


class _Way:
    """Where to, and how. Changed on the proxy's loop alone."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.accepting = False
        self.stalled = False
        # Bytes and seconds; 0: no limit.
        self.rate = 0.0
        self.latency = 0.0
        self.links: dict[int, _Near] = {}


class _End(asyncio.Protocol):
    """One end of a connection; what it receives waits here until the other end may send it."""

    # Known once both ends are connected.
    other: _End | None = None

    def __init__(self, way: _Way) -> None:
        self._way = way
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        # Each piece, and when it is due.
        self._line: deque[tuple[float, bytes]] = deque()
        self._waiting = 0
        # When the next piece may pass a narrow way.
        self._free = 0.0
        self._timer: asyncio.TimerHandle | None = None
        # The other end's buffer is full; this end has heard the last.
        self._blocked = self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._line.append((self._loop.time() + self._way.latency, data))
        self._waiting += len(data)
        if self.transport is not None and not self.transport.is_reading():
            # In Python 3.10 a transport that is told to pause as soon as it is there reads nevertheless; so it is told
            # again, below.
            self.transport.resume_reading()
        self.pump()

    def eof_received(self) -> bool:
        self._over = True
        self.pump()
        # Kept open until the other end has been told.
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._both(reset)
        else:
            self._over = True
            self.pump()

    def pause_writing(self) -> None:
        assert self.other is not None
        self.other._blocked = True

    def resume_writing(self) -> None:
        assert self.other is not None
        self.other._blocked = False
        self.other.pump()

    def pump(self) -> None:
        """Hand over what is due, and see to it that the rest is handed over in time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        other = self.other
        if other is not None and other.transport is not None:
            while self._line and not self._way.stalled and not self._blocked:
                wait = max(self._line[0][0], self._free if self._way.rate else 0.0) - self._loop.time()
                if wait > 0:
                    self._timer = self._loop.call_later(wait, self.pump)
                    break
                self._pass(other.transport)
            if self._over and not self._line and not self._way.stalled:
                # What was handed over before is still sent.
                self._both(lambda transport: transport.close())
        self._read_or_not()

    def _pass(self, sink: asyncio.Transport) -> None:
        due, data = self._line.popleft()
        if self._way.rate:
            piece = max(1, int(self._way.rate * PIECE))
            if len(data) > piece:
                self._line.appendleft((due, data[piece:]))
                data = data[:piece]
            self._free = max(self._free, self._loop.time()) + len(data) / self._way.rate
        self._waiting -= len(data)
        if not sink.is_closing():
            sink.write(data)

    def _read_or_not(self) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        # A connection that nobody reads from does not notice its end either, which is as it should be.
        wanted = self.other is not None and not self._way.stalled and self._waiting < HIGH
        if wanted and not self._over:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def _both(self, finish: Callable[[asyncio.Transport], None]) -> None:
        for end in (self, self.other):
            if end is None:
                continue
            end._line.clear()
            if end._timer is not None:
                end._timer.cancel()
                end._timer = None
            if end.transport is not None:
                finish(end.transport)


class _Near(_End):
    """The client's end, which makes the other."""

    def __init__(self, way: _Way) -> None:
        super().__init__(way)
        self._client = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        if not self._way.accepting:
            reset(self.transport)
            return
        self._client = transport.get_extra_info("peername")[1]
        self._read_or_not()
        self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        way = self._way
        try:
            _, far = await self._loop.create_connection(lambda: _End(way), way.host, way.port)
        except OSError:
            # Nobody is there.
            self._both(reset)
            return
        assert self.transport is not None
        if self.transport.is_closing():
            assert far.transport is not None
            far.transport.close()
            return
        self.other, far.other = far, self
        way.links[self._client] = self
        self.pump()
        news.tell()

    def pump(self) -> None:
        """Both directions."""
        super().pump()
        if self.other is not None:
            self.other.pump()

    def cut(self, by_rst: bool) -> None:
        """End both connections at once."""
        self._forget()
        self._both(reset if by_rst else lambda transport: transport.abort())

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _forget(self) -> None:
        # The port may be a new connection's by now.
        if self._way.links.get(self._client) is self:
            del self._way.links[self._client]
            news.tell()
