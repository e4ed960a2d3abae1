"""What this process holds: connections, threads and memory."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Connections", "connections", "memory", "native_threads"]

MIB = 1024 * 1024


def connections(target: str) -> set[int]:
    """Return the TCP connections of this process to a target (``host:port``), by their local ports."""
    port, own = int(target.rpartition(":")[2]), os.getpid()
    return {
        one.laddr.port
        for one in psutil.net_connections("tcp")
        if one.pid == own
        and one.status == psutil.CONN_ESTABLISHED
        and one.laddr
        and one.raddr
        and one.raddr.port == port
    }


def native_threads() -> int:
    """Return the number of threads as the operating system counts them."""
    return psutil.Process().num_threads()


def memory() -> float:
    """Return the resident memory in MiB."""
    return float(psutil.Process().memory_info().rss / MIB)


class Connections:
    """Looks several times a second which connections there are, in a thread. A context manager.

    Attributes:
        seen: every one that ever was. Connections that do not live until the next look are missed.
    """

    def __init__(self, target: str, interval: float = 0.25) -> None:
        self.seen: set[int] = set()
        self._target = target
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(self._interval):
            self.seen |= connections(self._target)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
