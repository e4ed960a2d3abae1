"""A task that asks the server at the other end of a connection whether it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from ..serving import CHECK_EVERY, STREAM, health_of, pause, stub_and_request, unknown_service
from .late import Late

__all__ = ["Watcher"]


class Watcher:
    """Asks a server by `Watch`, or by `Check` every few seconds if it does not know that, or no more if neither.

    For one connection of a member's. Keeps the channel alive, and nothing else: `tell` should not keep alive what
    nobody uses any more.

    Arguments:
        service: whose health to ask for.
        tell: called with what the server says; returns False when nobody wants to know any more.
        complain: called with what interceptors raise, and whatever else should not happen.

    Attributes:
        task: does it, until it is cancelled.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        service: str,
        tell: Callable[[bool, str], bool],
        complain: Callable[[Exception], object],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._tell = tell
        self._complain = complain
        self._stub, self._request = stub_and_request(channel, service)
        self._watches = True
        self._failures = 0
        self.task = loop.create_task(Late(self._run))
        # A loop that is stopped for good without closing the pool would complain of this task when it is collected.
        self.task._log_destroy_pending = False  # type: ignore[attr-defined]

    def stop(self) -> None:
        """Ask no more."""
        self.task.cancel()

    async def _run(self) -> None:
        seconds: float | None = 0.0
        while seconds is not None:
            await asyncio.sleep(seconds)
            try:
                seconds = await (self._watch() if self._watches else self._check())
            except Exception as error:
                # An interceptor of the user's raised, say; it may not do so for ever.
                self._complain(error)
                seconds = self._pause(False)

    async def _watch(self) -> float | None:
        """Listen until the stream ends, and return how long to wait then; None: ask no more."""
        heard = False
        try:
            async for response in self._stub.Watch(self._request, timeout=STREAM, wait_for_ready=True):
                heard = True
                if not self._tell(*health_of(response)):
                    return None
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._watches = False
                return 0.0
        except grpc.aio.UsageError:
            # The channel was closed from outside.
            pass
        return self._pause(heard)

    async def _check(self) -> float | None:
        """Ask once, and return as `_watch`."""
        try:
            response = await self._stub.Check(self._request, timeout=CHECK_EVERY, wait_for_ready=True)
            wanted = self._tell(*health_of(response))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                # It does not know of health at all.
                self._tell(True, "UNIMPLEMENTED")
                return None
            if not unknown_service(error.code()):
                return self._pause(False)
            wanted = self._tell(False, "SERVICE_UNKNOWN")
        except grpc.aio.UsageError:
            return self._pause(False)
        self._failures = 0
        return CHECK_EVERY if wanted else None

    def _pause(self, heard: bool) -> float:
        self._failures = 0 if heard else self._failures + 1
        return pause(self._failures)
