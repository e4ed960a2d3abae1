"""The hot path of a pool without the network: what is timed here is all that a pool does for a unary call.

Members are real and connected, but their channels' multicallables answer at once. One process for each version of the
package that is compared; it does one block of calls whenever it is told to, so that versions can take turns.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import grpc

import grpcpool

__all__ = ["CALLS", "CAP", "main"]

METHOD = "/bench.Service/Method"
REQUEST = b""
SIZE = 8
CAP = 100
CALLS = 2000
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
    """Return a factory of channels that connect as others do, and whose unary calls go nowhere."""

    def make(*arguments: Any, **more: Any) -> Any:
        channel = factory(*arguments, **more)
        channel.unary_unary = lambda *_, **__: multicallable
        return channel

    return make


def _time_sync(call: Callable[[bytes], object]) -> float:
    loops = range(CALLS)
    # This thread's own time: what others do on a crowded machine is none of it.
    started = time.thread_time()
    for _ in loops:
        call(REQUEST)
    return (time.thread_time() - started) / CALLS


def _time_aio(call: Callable[[bytes], Any]) -> float:
    loops = range(CALLS)
    started = time.thread_time()
    for _ in loops:
        call(REQUEST)._cython_call.end()
    return (time.thread_time() - started) / CALLS


async def _serve(target: str, capped: bool) -> None:
    kinds = {"uncapped": UNCAPPED, **({"capped": CAPPED} if capped else {})}
    blocks: dict[str, Callable[[], float]] = {}
    pools = []
    for kind, options in kinds.items():
        sync = grpcpool.insecure_channel(target, size=SIZE, telemetry_interval=None, **options)
        sync.wait_ready(CONNECT_TIMEOUT, min_ready=SIZE)
        aio = grpcpool.aio.insecure_channel(target, size=SIZE, telemetry_interval=None, **options)
        await aio.wait_ready(CONNECT_TIMEOUT, min_ready=SIZE)
        pools.append((sync, aio))
        here, there = (pool.unary_unary(METHOD, _registered_method=True) for pool in (sync, aio))
        blocks[f"sync {kind}"] = lambda call=here: _time_sync(call)
        blocks[f"aio {kind}"] = lambda call=there: _time_aio(call)
    print(grpcpool.__file__, flush=True)
    while name := sys.stdin.readline().strip():
        # The aio pools' own work is done here, not in a block.
        await asyncio.sleep(0)
        print(blocks[name](), flush=True)
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
