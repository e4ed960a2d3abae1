"""RPCs that grpc.aio refuses for their metadata: they never begin, and are not in flight."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool.testing import ECHO, ServerProcess

pytestmark = pytest.mark.integration

KINDS = {
    "unary_unary": "Unary",
    "unary_stream": "ServerStream",
    "stream_unary": "ClientStream",
    "stream_stream": "Bidi",
}
# No text, keys that are none, and text that does not go into a header. (Of a stream, grpc says some of it by a status.)
REFUSED: list[tuple[Any, Any]] = [("x", 5), (5, "x"), ("X-Upper", "x"), ("a b", "x"), ("x", "ü"), ("x", "a\nb")]


class Unary(grpc.aio.UnaryUnaryClientInterceptor):
    """Adds what its user gave it to the metadata."""

    def __init__(self, pair: tuple[Any, Any]) -> None:
        self.pair = pair

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details._replace(metadata=(self.pair,)), request)


async def refused(call: Any) -> BaseException:
    with pytest.raises((TypeError, grpc.RpcError, grpc.aio.BaseError)) as caught:
        await (call.read() if hasattr(call, "read") else call)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", REFUSED, ids=repr)
def test_a_refused_rpc_is_over_when_its_caller_hears_of_it(
    server: ServerProcess, kind: str, pair: tuple[Any, Any]
) -> None:
    async def main() -> None:
        async with grpcpool.aio.insecure_channel(server.target, size=1) as pool:
            await pool.wait_ready()
            method = getattr(pool, kind)(f"{ECHO}{KINDS[kind]}")
            call = method(b"" if kind.startswith("unary") else None, metadata=[pair])
            # Whoever keeps the exception keeps the call, by way of its traceback.
            error = await refused(call)
            assert (pool.stats().in_flight, pool.stats().calls) == (0, 1), error

    asyncio.run(main())


def test_metadata_of_an_interceptors_is_refused_likewise(server: ServerProcess) -> None:
    async def main() -> None:
        async with grpcpool.aio.insecure_channel(server.target, size=1, interceptors=[Unary(("x", 5))]) as pool:
            await pool.wait_ready()
            error = await refused(pool.unary_unary(f"{ECHO}Unary")(b""))
            assert (pool.stats().in_flight, pool.stats().calls) == (0, 1), error

    asyncio.run(main())


def test_metadata_that_looks_odd_is_sent_all_the_same(server: ServerProcess) -> None:
    async def main() -> None:
        async with grpcpool.aio.insecure_channel(server.target, size=1) as pool:
            await pool.wait_ready()
            odd = [("x-bin", b"\x00\xff"), ("7-of-9", "x"), ("a.b", "~ ")]
            call = pool.unary_stream(f"{ECHO}ServerStream")(b"x", metadata=[*odd, ("count", "2")])
            assert await call.read() == b"x"
            # It has begun, and is not over.
            assert pool.stats().in_flight == 1
            assert [message async for message in _rest(call)] == [b"x"]
            assert pool.stats().in_flight == 0

    asyncio.run(main())


async def _rest(call: Any) -> Any:
    while (message := await call.read()) is not grpc.aio.EOF:
        yield message


def test_asyncio_still_complains_of_a_refused_rpc_that_nobody_awaits(
    server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with grpcpool.aio.insecure_channel(server.target, size=1) as pool:
            await pool.wait_ready()
            call = pool.unary_unary(f"{ECHO}Unary")(b"", metadata=[("x", 5)])
            await asyncio.wait([call._call_response])
            assert pool.stats().in_flight == 0
            del call
            gc.collect()

    with caplog.at_level(logging.ERROR, logger="asyncio"):
        asyncio.run(main())
    assert "Task exception was never retrieved" in caplog.text
