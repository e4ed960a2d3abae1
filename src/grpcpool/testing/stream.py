"""A call that is running at a `FaultServer`: what its headers say, and the messages that come."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from .faults import Failure
from .state import Request

__all__ = ["Stream", "request_of"]

UNIMPLEMENTED = 12
# HTTP/2's own, which an application does not get to see either.
TRANSPORT_HEADERS = frozenset({"te", "content-type", "grpc-timeout", "grpc-accept-encoding", "grpc-encoding"})
SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
# Stands for a message in an inbox; told by its identity.
COMPRESSED = bytes([1])


class Stream:
    """A call that is running."""

    __slots__ = ("_arrived", "_buffer", "_inbox", "ended", "greeted", "id", "request", "task")

    def __init__(self, id: int, request: Request) -> None:
        self.id = id
        self.request = request
        self.task: asyncio.Task[None] | None = None
        # The client has sent everything; our headers are sent.
        self.ended = self.greeted = False
        self._inbox: deque[bytes] = deque()
        self._buffer = bytearray()
        self._arrived: asyncio.Future[None] | None = None

    def receive(self, data: bytes, ended: bool) -> None:
        """Take in what came on the stream."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 5 and len(buffer) >= (end := 5 + int.from_bytes(buffer[1:5], "big")):
            if buffer[0]:
                self._inbox.append(COMPRESSED)
            else:
                self._inbox.append(bytes(buffer[5:end]))
            del buffer[:end]
        self.ended = self.ended or ended
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    @property
    def waiting(self) -> bool:
        """There is nothing to read yet."""
        return not self._inbox and not self.ended

    async def arrival(self) -> None:
        """Wait for more."""
        self._arrived = asyncio.get_running_loop().create_future()
        await self._arrived

    def take(self) -> bytes | None:
        """Return a message; None: it was the last."""
        if not self._inbox:
            return None
        message = self._inbox.popleft()
        if message is COMPRESSED:
            raise Failure(UNIMPLEMENTED, "this server does not read compressed messages")
        return message


def request_of(headers: Any, port: int) -> Request:
    """Return what the headers of a stream say."""
    method, timeout, metadata = "", None, []
    for name, value in headers:
        if name == ":path":
            method = value
        elif name == "grpc-timeout":
            timeout = int(value[:-1]) * SECONDS[value[-1]]
        elif not name.startswith(":") and name not in TRANSPORT_HEADERS:
            metadata.append((name, value))
    return Request(method, tuple(metadata), timeout, time.monotonic(), port)
