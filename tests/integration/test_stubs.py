"""Generated stubs over the pools: all four kinds of RPC, every way of calling them, and the service's own errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool.testing import ServerProcess

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server:
        yield server


class TestSync:
    @pytest.fixture
    def pool(self, server: ServerProcess) -> Iterator[grpcpool.ChannelPool]:
        with grpcpool.insecure_channel(server.target, size=2) as pool:
            pool.wait_ready(min_ready=2)
            yield pool
            assert pool.stats().calls > 0
            # grpc tells of the end of a stream, or of a future, in a thread of its own, and its user a moment earlier.
            deadline = time.monotonic() + 5
            while pool.stats().in_flight and time.monotonic() < deadline:
                time.sleep(0.001)
            assert pool.stats().in_flight == 0

    @pytest.fixture
    def stub(self, pool: grpcpool.ChannelPool, pb2_grpc: Any) -> Any:
        return pb2_grpc.EchoStub(pool)

    def test_unary(self, stub: Any, pb2: Any) -> None:
        assert stub.Unary(pb2.EchoRequest(payload=b"once")).payload == b"once"

    def test_unary_with_call(self, stub: Any, pb2: Any) -> None:
        reply, call = stub.Unary.with_call(pb2.EchoRequest(payload=b"call"))
        assert (reply.payload, call.code()) == (b"call", grpc.StatusCode.OK)

    def test_unary_future(self, stub: Any, pb2: Any) -> None:
        assert stub.Unary.future(pb2.EchoRequest(payload=b"later")).result().payload == b"later"

    def test_server_stream(self, stub: Any, pb2: Any) -> None:
        replies = stub.ServerStream(pb2.EchoRequest(payload=b"many"), metadata=[("count", "5")])
        assert [reply.payload for reply in replies] == [b"many"] * 5

    def test_client_stream(self, stub: Any, pb2: Any) -> None:
        requests = iter([pb2.EchoRequest(payload=b"first"), pb2.EchoRequest(payload=b"last")])
        assert stub.ClientStream(requests).payload == b"last"

    def test_bidi(self, stub: Any, pb2: Any) -> None:
        payloads = [b"a", b"b", b"c"]
        replies = stub.Bidi(iter([pb2.EchoRequest(payload=payload) for payload in payloads]))
        assert [reply.payload for reply in replies] == payloads

    def test_both_members_serve(self, pool: grpcpool.ChannelPool, stub: Any, pb2: Any) -> None:
        for _ in range(4):
            stub.Unary(pb2.EchoRequest())
        assert [member.calls for member in pool.stats().members] == [2, 2]

    def test_error_of_the_service(self, stub: Any, pb2: Any) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            stub.Unary(pb2.EchoRequest(), metadata=[("code", "FAILED_PRECONDITION")])
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.details() == "as asked: FAILED_PRECONDITION"

    def test_deadline(self, stub: Any, pb2: Any) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            stub.Unary(pb2.EchoRequest(), metadata=[("delay", "5")], timeout=0.05)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    def test_stub_on_a_member(self, pool: grpcpool.ChannelPool, pb2: Any, pb2_grpc: Any) -> None:
        stub = pb2_grpc.EchoStub(pool.get_channel())
        for _ in range(4):
            assert stub.Unary(pb2.EchoRequest(payload=b"here")).payload == b"here"
        assert sorted(member.calls for member in pool.stats().members) == [0, 4]


class TestAio:
    @pytest.fixture
    def run(self, server: ServerProcess, pb2_grpc: Any) -> Callable[[Callable[[Any], Coroutine[Any, Any, None]]], None]:
        """Runs a coroutine function with a stub over a pool of two, and checks that no RPC is left over."""

        async def over_a_pool(body: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
            async with grpcpool.aio.insecure_channel(server.target, size=2) as pool:
                await pool.wait_ready(min_ready=2)
                await body(pb2_grpc.EchoStub(pool))
                stats = pool.stats()
                assert stats.in_flight == 0
                assert stats.calls > 0

        return lambda body: asyncio.run(over_a_pool(body))

    def test_unary(self, run: Any, pb2: Any) -> None:
        async def body(stub: Any) -> None:
            call = stub.Unary(pb2.EchoRequest(payload=b"once"))
            assert (await call).payload == b"once"
            assert await call.code() is grpc.StatusCode.OK

        run(body)

    def test_server_stream(self, run: Any, pb2: Any) -> None:
        async def body(stub: Any) -> None:
            replies = stub.ServerStream(pb2.EchoRequest(payload=b"many"), metadata=[("count", "5")])
            assert [reply.payload async for reply in replies] == [b"many"] * 5

        run(body)

    def test_client_stream(self, run: Any, pb2: Any) -> None:
        async def requests() -> AsyncIterator[Any]:
            yield pb2.EchoRequest(payload=b"first")
            yield pb2.EchoRequest(payload=b"last")

        async def body(stub: Any) -> None:
            assert (await stub.ClientStream(requests())).payload == b"last"

        run(body)

    def test_client_stream_by_writing(self, run: Any, pb2: Any) -> None:
        async def body(stub: Any) -> None:
            call = stub.ClientStream()
            await call.write(pb2.EchoRequest(payload=b"first"))
            await call.write(pb2.EchoRequest(payload=b"last"))
            await call.done_writing()
            assert (await call).payload == b"last"

        run(body)

    def test_bidi(self, run: Any, pb2: Any) -> None:
        async def body(stub: Any) -> None:
            call = stub.Bidi()
            for payload in (b"ping", b"pong"):
                await call.write(pb2.EchoRequest(payload=payload))
                assert (await call.read()).payload == payload
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF

        run(body)

    def test_error_of_the_service(self, run: Any, pb2: Any) -> None:
        async def body(stub: Any) -> None:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Unary(pb2.EchoRequest(), metadata=[("code", "FAILED_PRECONDITION")])
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert caught.value.details() == "as asked: FAILED_PRECONDITION"

        run(body)

    def test_deadline(self, run: Any, pb2: Any) -> None:
        async def body(stub: Any) -> None:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Unary(pb2.EchoRequest(), metadata=[("delay", "5")], timeout=0.05)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

        run(body)
