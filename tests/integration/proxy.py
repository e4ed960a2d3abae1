"""A TCP proxy whose connections can be cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


Pair = tuple[socket.socket, socket.socket]


class Proxy:
    """Passes bytes between clients and a port of this machine, until it is told to cut.

    Attributes:
        target: what a client connects to.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Lock()
        self._pairs: dict[int, Pair] = {}
        self._refusing = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Closing alone does not wake a thread that waits in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    @property
    def ports(self) -> list[int]:
        """The clients' ports of the connections that are open."""
        with self._lock:
            return list(self._pairs)

    def cut(self, *, refuse: bool = False) -> None:
        """Cut every connection; refuse new ones from now on if asked to."""
        self._refusing = refuse
        for port in self.ports:
            self.cut_one(port)

    def cut_one(self, port: int) -> None:
        """Cut the connection of the client with this port."""
        with self._lock:
            pair = self._pairs.get(port)
        if pair is not None:
            self._end(port, pair)

    def _end(self, port: int, pair: Pair) -> None:
        with self._lock:
            # The port may be a new connection's by now.
            if self._pairs.get(port) is pair:
                del self._pairs[port]
        for end in pair:
            # Shut down first: it also wakes the thread that reads from it, which a mere close would not.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def mend(self) -> None:
        """Accept connections again."""
        self._refusing = False

    def _accept(self) -> None:
        while True:
            try:
                client, address = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                client.close()
                continue
            server = socket.create_connection(("localhost", self._port))
            port, pair = address[1], (client, server)
            with self._lock:
                self._pairs[port] = pair
            for source, sink in (pair, pair[::-1]):
                threading.Thread(target=self._pass, args=(source, sink, port, pair), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, port: int, pair: Pair) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        self._end(port, pair)
