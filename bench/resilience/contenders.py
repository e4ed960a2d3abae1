"""Who makes the calls: core's round robin, a rotation by hand, and our pool; each in sync code and in asyncio."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import grpc

import grpcpool

from .servers import METHOD

__all__ = [
    "CORE",
    "CYCLE",
    "FAILOVER",
    "HEDGED",
    "HEDGED_P95",
    "POOL",
    "POOLS",
    "ROOMS",
    "Caller",
    "opened",
    "opened_aio",
]

ROOMS = ("sync", "aio")

CORE = "core round_robin"
CYCLE = "rotation by hand"
POOL = "pool"
FAILOVER = "pool, retry"
HEDGED = "pool, hedge 0.05"
HEDGED_P95 = "pool, hedge p95"

# What each pool is told beyond its targets.
POOLS: dict[str, dict[str, Any]] = {
    POOL: {},
    FAILOVER: {"idempotent": "*", "retry": grpcpool.Retry(attempts=3)},
    HEDGED: {"idempotent": "*", "hedge_after": 0.05},
    HEDGED_P95: {"idempotent": "*", "hedge_after": "p95"},
}

CONNECT_TIMEOUT = 10.0
ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
# Every client has connections of its own. Pools do so anyway.
OWN = ("grpc.use_local_subchannel_pool", 1)


class Caller(NamedTuple):
    """A client that is connected.

    Attributes:
        call: as a multicallable.
        pool: None if it is none of ours.
    """

    call: Callable[..., Any]
    pool: Any = None


def _call_on(channel: Any) -> Callable[..., Any]:
    # As a generated stub does it.
    call: Callable[..., Any] = channel.unary_unary(METHOD, _registered_method=True)
    return call


def _in_turn(channels: list[Any]) -> Callable[..., Any]:
    following = itertools.cycle([_call_on(channel) for channel in channels]).__next__

    def call(request: bytes, **arguments: Any) -> Any:
        return following()(request, **arguments)

    return call


def _core(targets: list[str]) -> tuple[str, list[tuple[str, Any]]]:
    return f"ipv4:{','.join(targets)}", [("grpc.service_config", ROUND_ROBIN), OWN]


@contextmanager
def opened(contender: str, targets: list[str]) -> Iterator[Caller]:
    """Connect a sync client to all targets (``host:port``), and close it in the end."""
    with ExitStack() as stack:
        if contender in POOLS:
            made = grpcpool.insecure_channel(targets, size=len(targets), **POOLS[contender])
            pool = stack.enter_context(made)
            pool.wait_ready(CONNECT_TIMEOUT, min_ready=len(targets))
            yield Caller(_call_on(pool), pool)
            return
        if contender == CORE:
            channels = [grpc.insecure_channel(*_core(targets))]
        else:
            channels = [grpc.insecure_channel(target, [OWN]) for target in targets]
        for channel in channels:
            stack.enter_context(channel)
            grpc.channel_ready_future(channel).result(CONNECT_TIMEOUT)
        yield Caller(_in_turn(channels))


@asynccontextmanager
async def opened_aio(contender: str, targets: list[str]) -> AsyncIterator[Caller]:
    """Connect an aio client to all targets, and close it in the end."""
    async with AsyncExitStack() as stack:
        if contender in POOLS:
            made = grpcpool.aio.insecure_channel(targets, size=len(targets), **POOLS[contender])
            pool = await stack.enter_async_context(made)
            await pool.wait_ready(CONNECT_TIMEOUT, min_ready=len(targets))
            yield Caller(_call_on(pool), pool)
            return
        if contender == CORE:
            channels = [grpc.aio.insecure_channel(*_core(targets))]
        else:
            channels = [grpc.aio.insecure_channel(target, [OWN]) for target in targets]
        for channel in channels:
            await stack.enter_async_context(channel)
            await channel.channel_ready()
        yield Caller(_in_turn(channels))
