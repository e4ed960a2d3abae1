"""An aio pool that grows and shrinks under load: ``python examples/aio_pool.py``. Starts a server of its own."""

from __future__ import annotations

import asyncio

import grpcpool
from grpcpool.testing import ECHO, ServerProcess

CALLS = 500


async def call(pool: grpcpool.aio.ChannelPool, delay: float) -> bytes:
    reply: bytes = await pool.unary_unary(ECHO + "Unary")(b"hello", metadata=[("delay", str(delay))])
    return reply


async def use(target: str) -> None:
    async with grpcpool.aio.insecure_channel(target, size=2, strategy="power_of_two") as pool:
        await pool.wait_ready(min_ready=2)
        load = [asyncio.create_task(call(pool, 0.01)) for _ in range(CALLS)]
        for size in (6, 1, 3):
            print(f"size {await pool.resize(size)}: {pool.stats().in_flight} calls in flight")
        replies = await asyncio.gather(*load)
        assert replies == [b"hello"] * CALLS
        print(pool.status(), f"{pool.stats().calls} calls, {pool.stats().failures} failed")


def main() -> None:
    with ServerProcess() as server:
        asyncio.run(use(server.target))


if __name__ == "__main__":
    main()
