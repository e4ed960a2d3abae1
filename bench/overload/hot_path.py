"""The hot path of a pool without the network: what is timed here is all that a pool does for a unary call.

Members are real and connected, but one method of their channels answers at once. Whole calls, of another method, are
timed too, with all threads of the process. One process for each version of the
package that is compared; it does one block of calls whenever it is told to, so that versions can take turns.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

import grpcpool
from grpcpool.testing import ECHO

__all__ = ["CALLS", "CAP", "main"]

METHOD = "/bench.Service/Method"
WHOLE = f"{ECHO}Unary"
REQUEST = b""
SIZE = 8
CAP = 100
CALLS = 2000
# In a block of whole calls: some milliseconds as well.
WHOLE_CALLS = 10
UNCAPPED: dict[str, Any] = {}
CAPPED: dict[str, Any] = {"max_concurrent_streams": CAP}
CONNECT_TIMEOUT = 30.0


def _answer(*_: Any, **__: Any) -> bytes:
    return REQUEST


class _Operation:
    """What a grpc.aio call has inside: told when the call ends."""

    __slots__ = ("end",)

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        self.end = callback

    def is_ok(self) -> bool:
        return True


class _Call:
    """A grpc.aio call that never goes anywhere."""

    __slots__ = ("__weakref__", "_cython_call")

    def __init__(self, *_: Any, **__: Any) -> None:
        self._cython_call = _Operation()


def _without_network(factory: Callable[..., Any], multicallable: Callable[..., Any]) -> Callable[..., Any]:
    """Return a factory of channels that connect as others do, and on which calls of `METHOD` go nowhere."""

    def make(*arguments: Any, **more: Any) -> Any:
        channel = factory(*arguments, **more)
        real = channel.unary_unary
        channel.unary_unary = lambda name, *rest, **named: (
            multicallable if name == METHOD else real(name, *rest, **named)
        )
        return channel

    return make


async def _time_sync(call: Callable[[bytes], object]) -> float:
    loops = range(CALLS)
    # This thread's own time: what others do on a crowded machine is none of it.
    started = time.thread_time()
    for _ in loops:
        call(REQUEST)
    return (time.thread_time() - started) / CALLS


async def _time_aio(call: Callable[[bytes], Any]) -> float:
    loops = range(CALLS)
    started = time.thread_time()
    for _ in loops:
        call(REQUEST)._cython_call.end()
    return (time.thread_time() - started) / CALLS


async def _time_whole_sync(call: Callable[[bytes], object]) -> float:
    started = time.process_time()
    for _ in range(WHOLE_CALLS):
        call(REQUEST)
    return (time.process_time() - started) / WHOLE_CALLS


async def _time_whole_aio(call: Callable[[bytes], Awaitable[object]]) -> float:
    started = time.process_time()
    for _ in range(WHOLE_CALLS):
        await call(REQUEST)
    return (time.process_time() - started) / WHOLE_CALLS


async def _serve(target: str, capped: bool) -> None:
    kinds = {"uncapped": UNCAPPED, **({"capped": CAPPED} if capped else {})}
    blocks: dict[str, Callable[[], Awaitable[float]]] = {}
    pools = []
    for kind, options in kinds.items():
        sync = grpcpool.insecure_channel(target, size=SIZE, telemetry_interval=None, **options)
        sync.wait_ready(CONNECT_TIMEOUT, min_ready=SIZE)
        aio = grpcpool.aio.insecure_channel(target, size=SIZE, telemetry_interval=None, **options)
        await aio.wait_ready(CONNECT_TIMEOUT, min_ready=SIZE)
        pools.append((sync, aio))
        for room, pool, timed, whole in (
            ("sync", sync, _time_sync, _time_whole_sync),
            ("aio", aio, _time_aio, _time_whole_aio),
        ):
            for what, method, block in (("path", METHOD, timed), ("call", WHOLE, whole)):
                call = pool.unary_unary(method, _registered_method=True)
                blocks[f"{room} {kind} {what}"] = functools.partial(block, call)
    print(grpcpool.__file__, flush=True)
    while name := sys.stdin.readline().strip():
        # The aio pools' own work is done here, not in a block.
        await asyncio.sleep(0)
        print(await blocks[name](), flush=True)
    for sync, aio in pools:
        sync.close()
        await aio.close()


def main() -> None:
    """Do blocks as standard input says, one line for each, and print what a call took, in seconds."""
    _, target, *capped = sys.argv
    grpc.insecure_channel = _without_network(grpc.insecure_channel, _answer)
    grpc.aio.insecure_channel = _without_network(grpc.aio.insecure_channel, _Call)
    asyncio.run(_serve(target, bool(capped)))


if __name__ == "__main__":
    main()
