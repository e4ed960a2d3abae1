"""One way to talk to both pools, so that one specification can be run against each.

A flavour turns the sync pool, or the aio pool on a loop of its own in another thread, into the same blocking calls.
Nothing of the pool is replaced: these are thin hands, and what they hold is the real thing.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

import grpcpool
from grpcpool.testing import ECHO

TIMEOUT = 60.0
# For pools of which no member is to be ejected, or pinged, whatever the test or the machine makes of its RPCs.
UNJUDGED: dict[str, Any] = {"max_consecutive_failures": None, "min_success_rate": None, "unresponsive_after": None}


class Sync:
    """The sync pool."""

    name = "sync"
    closed_error: type[BaseException] = ValueError

    def start(self) -> None:
        self._threads = ThreadPoolExecutor(64)

    def stop(self) -> None:
        self._threads.shutdown()

    def on_loop(self, function: Callable[[], Any]) -> Any:
        return function()

    def insecure(self, *arguments: Any, **options: Any) -> Pool:
        return Pool(self, grpcpool.insecure_channel(*arguments, **options))

    def secure(self, *arguments: Any, **options: Any) -> Pool:
        return Pool(self, grpcpool.secure_channel(*arguments, **options))

    def pool(self, config: grpcpool.PoolConfig) -> Pool:
        return Pool(self, grpcpool.ChannelPool(config))

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    def in_background(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return self._threads.submit(function, *arguments, **options)

    def unary(self, callable_: Any, request: bytes, **options: Any) -> Any:
        return callable_(request, **options)

    def begin_unary(self, callable_: Any, request: bytes, **options: Any) -> Any:
        return callable_.future(request, **options)

    def finish(self, call: Any) -> Any:
        return call.result(TIMEOUT)

    def all_of(self, callable_: Any, request: Any, **options: Any) -> list[bytes]:
        return list(callable_(request, **options))

    def begin(self, callable_: Any, request: Any, **options: Any) -> Any:
        return callable_(request, **options)

    def read(self, call: Any) -> bytes:
        message: bytes = next(call)
        return message

    def cancel(self, call: Any) -> None:
        call.cancel()

    def code(self, call: Any) -> grpc.StatusCode:
        code: grpc.StatusCode = call.code()
        return code

    def collect(self) -> None:
        gc.collect()


class Aio:
    """The aio pool, on a loop of its own."""

    name = "aio"
    closed_error: type[BaseException] = grpc.aio.UsageError

    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def stop(self) -> None:
        async def cancel_all() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.on_loop(cancel_all)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def in_background(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        async def run() -> Any:
            result = function(*arguments, **options)
            return await result if inspect.isawaitable(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self.loop)

    def on_loop(self, function: Callable[[], Any]) -> Any:
        return self.in_background(function).result(TIMEOUT)

    def insecure(self, *arguments: Any, **options: Any) -> Pool:
        return Pool(self, grpcpool.aio.insecure_channel(*arguments, **options))

    def secure(self, *arguments: Any, **options: Any) -> Pool:
        return Pool(self, grpcpool.aio.secure_channel(*arguments, **options))

    def pool(self, config: grpcpool.PoolConfig) -> Pool:
        return Pool(self, grpcpool.aio.ChannelPool(config))

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return self.in_background(function, *arguments, **options).result(TIMEOUT)

    def unary(self, callable_: Any, request: bytes, **options: Any) -> Any:
        async def run() -> Any:
            return await callable_(request, **options)

        return self.on_loop(run)

    def begin_unary(self, callable_: Any, request: bytes, **options: Any) -> Any:
        return self.begin(callable_, request, **options)

    def finish(self, call: Any) -> Any:
        async def run() -> Any:
            return await call

        return self.on_loop(run)

    def all_of(self, callable_: Any, request: Any, **options: Any) -> list[bytes]:
        async def run() -> list[bytes]:
            return [message async for message in callable_(request, **options)]

        found: list[bytes] = self.on_loop(run)
        return found

    def begin(self, callable_: Any, request: Any, **options: Any) -> Any:
        # A call object is awaitable, and must be handed over unawaited.
        return self.on_loop(lambda: [callable_(request, **options)])[0]

    def read(self, call: Any) -> bytes:
        message: bytes = self.on_loop(call.read)
        return message

    def cancel(self, call: Any) -> None:
        self.on_loop(call.cancel)

    def code(self, call: Any) -> grpc.StatusCode:
        code: grpc.StatusCode = self.on_loop(call.code)
        return code

    def collect(self) -> None:
        self.on_loop(lambda: gc.collect() and None)


Flavour = Sync | Aio


class Pool:
    """A pool of either flavour; its coroutines block here. Attributes that are not here are the pool's own."""

    def __init__(self, flavour: Flavour, raw: Any) -> None:
        self.flavour = flavour
        self.raw = raw

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.raw, name)
        return (lambda *args, **kwargs: self.flavour.call(found, *args, **kwargs)) if callable(found) else found

    def __enter__(self) -> Pool:  # noqa: PYI034  # a plain name, for `__getattr__` hides the rest from checkers
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def method(self, name: str, on: Any = None) -> Any:
        kind = {
            "Unary": "unary_unary",
            "ServerStream": "unary_stream",
            "ClientStream": "stream_unary",
            "Bidi": "stream_stream",
        }
        return self.flavour.call(getattr(on or self.raw, kind[name]), f"{ECHO}{name}")

    def unary(self, request: bytes = b"x", on: Any = None, **options: Any) -> bytes:
        answer: bytes = self.flavour.unary(self.method("Unary", on), request, **options)
        return answer

    def begin_unary(self, request: bytes = b"x", **options: Any) -> Any:
        return self.flavour.begin_unary(self.method("Unary"), request, **options)

    def server_stream(self, request: bytes = b"x", **options: Any) -> list[bytes]:
        return self.flavour.all_of(self.method("ServerStream"), request, **options)

    def begin_stream(self, request: bytes = b"x", **options: Any) -> Any:
        return self.flavour.begin(self.method("ServerStream"), request, **options)

    def client_stream(self, requests: Iterable[bytes], **options: Any) -> bytes:
        answer: bytes = self.flavour.unary(self.method("ClientStream"), iter(requests), **options)
        return answer

    def bidi(self, requests: Iterable[bytes], **options: Any) -> list[bytes]:
        return self.flavour.all_of(self.method("Bidi"), iter(requests), **options)


def flavours() -> Iterator[Flavour]:
    """Yield one of each."""
    yield Sync()
    yield Aio()
