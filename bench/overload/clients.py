"""Who makes the calls: a pool, or one channel of grpc's, in either room."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

import grpcpool

__all__ = ["ROOMS", "Client", "opened", "opened_aio", "scaled"]

ROOMS = ("sync", "aio")
CONNECT_TIMEOUT = 30.0
# As a pool's members have it: no connection is shared with a channel that happens to have equal options.
OWN = ("grpc.use_local_subchannel_pool", 1)


@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """A way to reach one target.

    Attributes:
        name: in print.
        pool: the options of a pool; None: one plain channel.
        options: channel arguments.
    """

    name: str
    pool: dict[str, Any] | None = None
    options: list[tuple[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it; `Client(**that)` is the same again."""
        return dataclasses.asdict(self)


def scaled(connections: int) -> list[tuple[str, Any]]:
    """Return the channel arguments with which core opens further connections by itself (gRFC A105)."""
    config = {"connectionScaling": {"maxConnectionsPerSubchannel": connections}}
    return [("grpc.service_config", json.dumps(config))]


def _options(given: dict[str, Any]) -> dict[str, Any]:
    # JSON has no tuples.
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


@contextmanager
def opened(client: Client, target: str) -> Iterator[Any]:
    """Make a sync channel, connect all of it, and close it in the end."""
    if client.pool is None:
        with grpc.insecure_channel(target, [OWN, *map(tuple, client.options)]) as channel:
            grpc.channel_ready_future(channel).result(CONNECT_TIMEOUT)
            yield channel
    else:
        with grpcpool.insecure_channel(target, map(tuple, client.options), **_options(client.pool)) as pool:
            pool.open()
            pool.wait_ready(CONNECT_TIMEOUT, min_ready=pool.status().expected_size)
            yield pool


@asynccontextmanager
async def opened_aio(client: Client, target: str) -> AsyncIterator[Any]:
    """Make an aio channel, connect all of it, and close it in the end."""
    if client.pool is None:
        async with grpc.aio.insecure_channel(target, [OWN, *map(tuple, client.options)]) as channel:
            await channel.channel_ready()
            yield channel
    else:
        async with grpcpool.aio.insecure_channel(target, map(tuple, client.options), **_options(client.pool)) as pool:
            await pool.open()
            await pool.wait_ready(CONNECT_TIMEOUT, min_ready=pool.status().expected_size)
            yield pool
