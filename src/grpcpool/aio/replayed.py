"""A server stream of which the first message was read already."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

__all__ = ["Replayed"]


class Replayed(grpc.aio.UnaryStreamCall):  # type: ignore[type-arg]
    """The call of a server stream, beginning with a message that was taken from it.

    Arguments:
        call: the rest of it.
        first: that message, or grpc's end-of-file if it has none; None if it failed before that.
        error: what it failed with then. An intercepted call says so only once.
    """

    def __init__(self, call: Any, first: Any, error: grpc.aio.AioRpcError | None = None) -> None:
        self._call = call
        self._first = first
        self._error = error

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._messages()

    async def _messages(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def read(self) -> Any:
        """Return the next message, or grpc's end-of-file."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        first, self._first = self._first, None
        return await self._call.read() if first is None else first

    def cancelled(self) -> bool:
        """Say whether it was cancelled."""
        cancelled: bool = self._call.cancelled()
        return cancelled

    def done(self) -> bool:
        """Say whether it has ended."""
        done: bool = self._call.done()
        return done

    def time_remaining(self) -> float | None:
        """Return the seconds that it has left; None if it has no deadline."""
        remaining: float | None = self._call.time_remaining()
        return remaining

    def cancel(self) -> bool:
        """End it."""
        cancelled: bool = self._call.cancel()
        return cancelled

    def add_done_callback(self, callback: Any) -> None:
        """Call `callback` when it has ended."""
        self._call.add_done_callback(callback)

    async def initial_metadata(self) -> Any:
        """Return the initial metadata."""
        return await self._call.initial_metadata()

    async def trailing_metadata(self) -> Any:
        """Return the trailing metadata, when it has ended."""
        return await self._call.trailing_metadata()

    async def code(self) -> Any:
        """Return its status, when it has ended."""
        return await self._call.code()

    async def details(self) -> Any:
        """Return its details, when it has ended."""
        return await self._call.details()

    async def debug_error_string(self) -> Any:
        """Return what grpc says about its end, when it has ended."""
        return await self._call.debug_error_string()

    async def wait_for_connection(self) -> None:
        """Return when it is connected, as it is."""
        await self._call.wait_for_connection()
