"""The process behind `ServerProcess`: ``python -m grpcpool.testing.serve``."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from .servers import ECHO

__all__ = ["main"]

# Longer than any deadline, in seconds.
FOREVER = 1e9
# What a stopping server grants to running calls.
GRACE = 5.0


class _Echo(grpc.GenericRpcHandler):
    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            f"{ECHO}Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            f"{ECHO}ServerStream": grpc.unary_stream_rpc_method_handler(self._server_stream),
            f"{ECHO}ClientStream": grpc.stream_unary_rpc_method_handler(self._client_stream),
            f"{ECHO}Bidi": grpc.stream_stream_rpc_method_handler(self._bidi),
            # An empty message whose field 1 (status) is 1 (SERVING), as the health service would answer.
            "/grpc.health.v1.Health/Check": grpc.unary_unary_rpc_method_handler(self._health),
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)

    async def _suffer(self, context: Any) -> dict[str, str]:
        wishes = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        delay = self._delay + float(wishes.get("delay", 0))
        if delay:
            await asyncio.sleep(delay)
        code = wishes.get("code", "OK")
        if code != "OK":
            await context.abort(grpc.StatusCode[code], f"as asked: {code}")
        return wishes

    async def _unary(self, request: bytes, context: Any) -> bytes:
        left = context.time_remaining()
        wishes = await self._suffer(context)
        if wishes.get("answer") == "deadline":
            # Without one, the time left is that until the end of time, which nobody need be told.
            return b"" if left is None or left > FOREVER else str(left).encode()
        return request

    async def _server_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        wishes = await self._suffer(context)
        for number in range(int(wishes.get("count", 3))):
            if number and "gap" in wishes:
                await asyncio.sleep(float(wishes["gap"]))
            yield request

    async def _client_stream(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        await self._suffer(context)
        return b"".join([request async for request in requests])

    async def _bidi(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await self._suffer(context)
        async for request in requests:
            yield request

    async def _health(self, request: bytes, context: Any) -> bytes:
        return b"\x08\x01"


async def _serve(arguments: argparse.Namespace) -> None:
    options = [(name, int(value)) for name, _, value in (option.partition("=") for option in arguments.option)]
    # With SO_REUSEPORT two servers could share a port by accident, and a test would talk to the wrong one.
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *options])
    server.add_generic_rpc_handlers((_Echo(arguments.delay),))
    if arguments.certificate is None:
        port = server.add_insecure_port(arguments.address)
    else:
        pair = (arguments.key.read_bytes(), arguments.certificate.read_bytes())
        authority = arguments.client_ca.read_bytes() if arguments.client_ca else None
        credentials = grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)
        port = server.add_secure_port(arguments.address, credentials)
    await server.start()
    print(port, flush=True)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    # Nothing is ever written there: it becomes readable when whoever started this server is gone.
    loop.add_reader(sys.stdin.fileno(), stop.set)
    await stop.wait()
    await server.stop(GRACE)


def main() -> None:
    """Serve until SIGTERM, or the end of standard input; print the port when connections are accepted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--client-ca", type=Path)
    parser.add_argument("--option", action="append", default=[])
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
