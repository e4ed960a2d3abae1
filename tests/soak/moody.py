"""A server that answers UNAVAILABLE to everything for a part of each period: ``python -m tests.soak.moody``."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from grpcpool.testing import ECHO

__all__ = ["TEXT"]

TEXT = "not in the mood"


def _serve_methods(period: float, share: float) -> grpc.GenericRpcHandler:
    async def suffer(context: Any) -> None:
        if time.monotonic() % period < share * period:
            await context.abort(grpc.StatusCode.UNAVAILABLE, TEXT)
        wishes = dict(context.invocation_metadata())
        await asyncio.sleep(float(wishes.get("delay", 0)))
        if "code" in wishes:
            await context.abort(grpc.StatusCode[wishes["code"]], "as asked")

    async def unary(request: bytes, context: Any) -> bytes:
        await suffer(context)
        return request

    async def server_stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        await suffer(context)
        wishes = dict(context.invocation_metadata())
        for _ in range(int(wishes.get("count", 3))):
            yield request
            await asyncio.sleep(float(wishes.get("gap", 0)))

    async def client_stream(requests: AsyncIterator[bytes], context: Any) -> bytes:
        await suffer(context)
        return b"".join([request async for request in requests])

    async def bidi(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await suffer(context)
        async for request in requests:
            yield request

    return grpc.method_handlers_generic_handler(
        ECHO.strip("/"),
        {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
            "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
            "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
        },
    )


async def _run(period: float, share: float) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_serve_methods(period, share),))
    print(server.add_insecure_port("localhost:0"), flush=True)
    await server.start()
    over = asyncio.Event()
    # Nothing is ever written there: it becomes readable when whoever started this server is gone.
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), over.set)
    await over.wait()
    await server.stop(None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--period", type=float, default=12.0)
    parser.add_argument("--share", type=float, default=0.25)
    arguments = parser.parse_args()
    asyncio.run(_run(arguments.period, arguments.share))
