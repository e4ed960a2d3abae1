"""Who chooses the backend: core gRPC, a rotation by hand, other libraries, and every strategy of grpcpool."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import grpc

import grpcpool
from grpcpool import strategies

from .servers import METHOD

__all__ = ["CORE", "Call", "Contender", "contenders", "left_out"]

# One client's way to make a call: ``await call(request, timeout=seconds)``.
Call = Callable[..., Awaitable[bytes]]

CORE = "core-round-robin"
CYCLE = "cycle"
CLIENT_KIT = "grpc-client-kit"
GCP = "grpcio-gcp"

CONNECT_TIMEOUT = 10.0
ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
# Every client has connections of its own, as it has in a process of its own. Pools do so anyway.
OWN = ("grpc.use_local_subchannel_pool", 1)


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to choose.

    Attributes:
        name: in print and on the command line.
        open: makes one client of the targets (``host:port``) and a seed, and closes it in the end.
    """

    name: str
    open: Callable[[list[str], int], AbstractAsyncContextManager[Call]]


def contenders() -> list[Contender]:
    """Return all that can be measured here. What cannot is in `left_out`."""
    found = [Contender(CORE, _core), Contender(CYCLE, _cycle)]
    if CLIENT_KIT not in left_out():
        found.append(Contender(CLIENT_KIT, _client_kit))
    # Where a key decides, it is the caller who chooses, not the strategy.
    ours = [name for name in strategies.available() if not getattr(strategies.resolve(name), "keyed", False)]
    return found + [Contender(name, partial(_pool, name)) for name in ours]


def left_out() -> dict[str, str]:
    """Return which other libraries are not measured, and why."""
    reasons = {
        GCP: "sync only, and made for one target: it fills one connection after the other and leaves the"
        " backend to core (of ten addresses, every channel takes the first, unless told to use round_robin)."
        " Its generated code does not load with protobuf 4 or later, except with the slow pure-Python one."
    }
    try:
        importlib.import_module("grpc_client_kit")
    except ImportError as error:
        wants = "" if sys.version_info >= (3, 12) else "; it needs Python 3.12"
        reasons[CLIENT_KIT] = f"not installed ({error}){wants}"
    return reasons


def _call_on(channel: Any) -> Call:
    # As a generated stub does it.
    call: Call = channel.unary_unary(METHOD, _registered_method=True)
    return call


@asynccontextmanager
async def _core(targets: list[str], seed: int) -> AsyncIterator[Call]:
    """Yield a plain channel that balances by itself, the addresses given ahead."""
    options = [("grpc.service_config", ROUND_ROBIN), OWN]
    async with grpc.aio.insecure_channel(f"ipv4:{','.join(targets)}", options=options) as channel:
        await channel.channel_ready()
        yield _call_on(channel)


@asynccontextmanager
async def _cycle(targets: list[str], seed: int) -> AsyncIterator[Call]:
    """Yield what is written by hand most often: channels, taken in turn."""
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(target, options=[OWN])) for target in targets
        ]
        for channel in channels:
            await channel.channel_ready()
        following = itertools.cycle([_call_on(channel) for channel in channels]).__next__

        def call(request: bytes, timeout: float) -> Awaitable[bytes]:
            return following()(request, timeout=timeout)

        yield call


@asynccontextmanager
async def _pool(strategy: str, targets: list[str], seed: int) -> AsyncIterator[Call]:
    pool = grpcpool.aio.insecure_channel(targets, size=len(targets), strategy=strategy, seed=seed)
    async with pool:
        await pool.wait_ready(CONNECT_TIMEOUT, min_ready=len(targets))
        yield _call_on(pool)


@asynccontextmanager
async def _client_kit(targets: list[str], seed: int) -> AsyncIterator[Call]:
    """Yield a client as that library's factory makes it: round robin, with targets that failed left out for 5 s.

    Its retries and circuit breakers stay off: they are no choice of a backend, and nobody else here retries.
    """
    kit = importlib.import_module("grpc_client_kit")
    nothing = dict.fromkeys(("target", "pool", "circuit_breaker", "retry", "timeout", "balancer", "health_checker"))
    off = dict.fromkeys(("tracing_enabled", "metrics_enabled", "logging_enabled"), False)
    settings = SimpleNamespace(**nothing, **off, targets=targets, insecure=True, options=[OWN])

    class Stub:
        def __init__(self, channel: Any) -> None:
            self.call = _call_on(channel)

    async with kit.GrpcClientFactory(settings=settings) as factory:
        client = factory.create_client(Stub)

        async def call(request: bytes, timeout: float) -> bytes:
            # The choice is made here, so each call needs a stub of its own.
            async with client as stub:
                answer: bytes = await stub.call(request, timeout=timeout)
                return answer

        yield call
