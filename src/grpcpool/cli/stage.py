"""The servers that the demo plays on, and what the operating system says about the connections to them."""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from ..testing import ServerProcess

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["DELAYS", "Server", "Stage", "StageError"]

# Seconds that every call takes on each server: two alike, and one that is ten times as slow.
DELAYS = (0.004, 0.004, 0.040)

# The loopback in both families: as it is written in a gRPC target, as a socket wants it, and the scheme of its lists.
_LOOPBACKS = (("127.0.0.1", "127.0.0.1", "ipv4"), ("[::1]", "::1", "ipv6"))

CONNECT_TIMEOUT = 1.0


class StageError(Exception):
    """A server could not be started or reached; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server of the demo.

    Attributes:
        name: one letter.
        delay: seconds that every call takes there.
        address: host and port.
        port: the TCP port.
    """

    name: str
    delay: float
    address: str
    port: int


class Stage:
    """Three servers in processes of their own. A context manager: on exit they are gone, however it came to that.

    Attributes:
        servers: what they are; set once they run.
        scheme: ``"ipv4"`` or ``"ipv6"``, for a target that lists several addresses.
        crew: threads for what takes a while. A server must be started from here.
    """

    def __init__(self, delays: Sequence[float] = DELAYS) -> None:
        self._delays = tuple(delays)
        self._processes = [ServerProcess(delay=delay) for delay in self._delays]
        self.servers: tuple[Server, ...] = ()
        self.scheme = ""
        self.crew = ThreadPoolExecutor(len(self._processes), thread_name_prefix="stage", initializer=_ignore_interrupts)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _start(self) -> None:
        try:
            for started in [self.crew.submit(process.start) for process in self._processes]:
                started.result()
        except RuntimeError as error:
            raise StageError(str(error)) from None
        ports = [process.port for process in self._processes]
        for host, name, scheme in _LOOPBACKS:
            if all(_accepts(name, port) for port in ports):
                self.scheme = scheme
                self.servers = tuple(
                    Server(name=chr(ord("A") + index), delay=delay, address=f"{host}:{port}", port=port)
                    for index, (delay, port) in enumerate(zip(self._delays, ports, strict=True))
                )
                return
        raise StageError(f"the servers on the ports {ports} accept connections neither at 127.0.0.1 nor at ::1")

    def _end(self) -> None:
        # A server that is just being started must be there before it can be killed.
        self.crew.shutdown(cancel_futures=True)
        for process in self._processes:
            process.kill()

    def kill(self, index: int) -> None:
        """End a server as a crash does."""
        self._processes[index].kill()

    def restart(self, index: int) -> None:
        """Start a killed server again on its old port, and return when it accepts connections. Only from the crew.

        Raises:
            StageError: it did not start.
        """
        try:
            self._processes[index].start()
        except RuntimeError as error:
            raise StageError(str(error)) from None

    def connections(self) -> dict[str, int]:
        """Count this process's established TCP connections to each server, as the operating system lists them."""
        names = {server.port: server.name for server in self.servers}
        counts = {server.name: 0 for server in self.servers}
        for connection in psutil.Process().net_connections(kind="tcp"):
            # A listening socket has no remote address, but those that are established all have one.
            if connection.status == psutil.CONN_ESTABLISHED and connection.raddr.port in names:
                counts[names[connection.raddr.port]] += 1
        return counts


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT).close()
    except OSError:
        return False
    return True


def _ignore_interrupts() -> None:
    # Ctrl-C in a terminal goes to every process of the group, and the servers would each answer it with a traceback. A
    # process inherits the signals that the thread which starts it has blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
