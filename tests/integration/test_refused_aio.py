"""Unary RPCs of an aio pool that a server refuses, having too many: they go on, and no caller sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool.aio.rescue import MOVED
from grpcpool.outcome import RESENDS
from grpcpool.testing import ECHO, FaultServer

from .flavours import UNJUDGED

pytestmark = pytest.mark.integration

UNARY = f"{ECHO}Unary"
STREAM = f"{ECHO}ServerStream"
OK, UNAVAILABLE, CANCELLED = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED

RETRY = grpcpool.Retry()
KINDS = {"list": list, "iter": iter, "Metadata": lambda pairs: grpc.aio.Metadata(*pairs)}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        server.hang(methods=[STREAM])
        yield server


async def until(condition: Callable[[], object]) -> None:
    async def look() -> None:
        while not condition():  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(0.002)

    await asyncio.wait_for(look(), 10)


@pytest.fixture
def no_end_of_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have RPCs that were refused rest for longer than any test takes."""
    monkeypatch.setattr("grpcpool.aio.clerk.rest", lambda number, timeout: 60)


def rests(call: Any) -> bool:
    return MOVED in vars(call)


async def begin_refused(server: FaultServer, pool: grpcpool.aio.ChannelPool) -> Any:
    """Return a call that was refused, and rests."""
    server.refuse_streams(methods=[UNARY])
    call = pool.unary_unary(UNARY)(b"x", timeout=100)
    await until(lambda: rests(call))
    return call


@asynccontextmanager
async def half_full(*servers: FaultServer, **options: Any) -> AsyncIterator[grpcpool.aio.ChannelPool]:
    """Open a pool of which every member has room for four RPCs, and two in flight."""
    size = len(servers)
    targets = [server.target for server in servers]
    limits = {"size": size, "max_concurrent_streams": 4}
    async with grpcpool.aio.insecure_channel(targets, **limits, **UNJUDGED, **options) as pool:
        await pool.wait_ready(min_ready=size)
        streams = [pool.unary_stream(STREAM)(b"x") for _ in range(2 * size)]
        for server in servers:
            await until(lambda server=server: server.in_flight == 2)
        yield pool
        for stream in streams:
            stream.cancel()
        await until(lambda: pool.stats().in_flight == 0)


async def response(call: Any) -> Any:
    return await call


async def twice(call: Any) -> Any:
    first, second = await asyncio.gather(call, call)
    assert first == second == await call
    return first


async def status(call: Any) -> Any:
    assert (await call.code(), await call.details()) == (OK, "")
    return await call


async def metadata(call: Any) -> Any:
    await call.initial_metadata()
    await call.trailing_metadata()
    await call.debug_error_string()
    return await call


async def shown(call: Any) -> Any:
    result = await call
    assert "RST_STREAM" not in repr(call) + str(call)
    return result


async def connection(call: Any) -> Any:
    await call.wait_for_connection()
    assert await call.code() is OK
    return await call


async def callback(call: Any) -> Any:
    told: asyncio.Queue[tuple[Any, bool]] = asyncio.Queue()
    call.add_done_callback(lambda call: told.put_nowait((call, call.done())))
    assert await told.get() == (call, True)
    call.add_done_callback(lambda call: told.put_nowait((call, call.done())))
    assert await told.get() == (call, True)
    assert await call.code() is OK
    return await call


async def late_callback(call: Any) -> Any:
    result = await call
    told: list[Any] = []
    call.add_done_callback(told.append)
    assert told == [call]
    return result


@pytest.mark.parametrize("way", [response, twice, status, metadata, shown, connection, callback, late_callback])
def test_however_its_caller_looks_at_it(server: FaultServer, way: Callable[[Any], Awaitable[Any]]) -> None:
    async def run() -> None:
        async with half_full(server) as pool:
            server.refuse_streams(methods=[UNARY], times=1)
            assert await way(pool.unary_unary(UNARY)(b"x", timeout=30)) == b"x"
            stats = pool.stats()
            assert (stats.resent, stats.in_flight, stats.calls) == (1, 2, 3)
            assert stats.failures == 0

    asyncio.run(run())


@pytest.mark.parametrize("options", [{}, {"failover": False}, {"strategy": "consistent_hash"}], ids=str)
def test_whatever_the_pool_does_else(server: FaultServer, options: dict[str, Any]) -> None:
    async def run() -> None:
        async with half_full(server, **options) as pool:
            server.refuse_streams(methods=[UNARY], times=3)
            with grpcpool.affinity("key"):
                call = pool.unary_unary(UNARY)(b"x", metadata=(("a", "b"),))
            assert await call == b"x"
            assert dict(server.requests[-1].metadata)["a"] == "b"
            assert pool.stats().resent == 3

    asyncio.run(run())


@pytest.mark.parametrize("cap", [1, 2])
def test_the_first_one_where_there_is_room_for_few(server: FaultServer, cap: int) -> None:
    async def run() -> None:
        async with grpcpool.aio.insecure_channel(server.target, size=1, max_concurrent_streams=cap, **UNJUDGED) as pool:
            await pool.wait_ready()
            server.refuse_streams(methods=[UNARY], times=1)
            assert await pool.unary_unary(UNARY)(b"x") == b"x"
            assert (pool.stats().resent, pool.stats().in_flight) == (1, 0)

    asyncio.run(run())


def test_so_often_and_no_oftener(server: FaultServer) -> None:
    async def run() -> None:
        async with half_full(server) as pool:
            server.refuse_streams(methods=[UNARY])
            call = pool.unary_unary(UNARY)(b"x")
            for look in (call.wait_for_connection(), call):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await look
                assert caught.value.code() is UNAVAILABLE
            assert (await call.code(), call.done(), call.cancelled()) == (UNAVAILABLE, True, False)
            stats = pool.stats()
            assert (stats.resent, stats.failures, stats.in_flight) == (RESENDS, 1, 2)

    asyncio.run(run())


@pytest.mark.usefixtures("no_end_of_rest")
def test_meanwhile_it_is_not_done_and_keeps_its_place(server: FaultServer) -> None:
    async def run() -> None:
        async with half_full(server) as pool:
            server.refuse_streams(methods=[UNARY])
            call = pool.unary_unary(UNARY)(b"x", timeout=100)
            told: list[Any] = []
            call.add_done_callback(told.append)
            awaited = asyncio.ensure_future(call)
            await until(lambda: rests(call))
            assert (pool.stats().in_flight, told, call.done()) == (3, [], False)
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await awaited
            assert (call.done(), call.cancelled(), await call.code(), told) == (True, True, CANCELLED, [call])
            assert not call.cancel()
            assert pool.stats().in_flight == 2

    asyncio.run(run())


@pytest.mark.usefixtures("no_end_of_rest")
def test_whoever_asks_and_is_cancelled_does_not_cancel_it(server: FaultServer) -> None:
    async def run() -> None:
        async with half_full(server) as pool:
            call = await begin_refused(server, pool)
            for ask in (
                call.code,
                call.details,
                call.initial_metadata,
                call.trailing_metadata,
                call.wait_for_connection,
            ):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(ask(), 0.02)
            assert not call.done()
            call.cancel()

    asyncio.run(run())


def test_one_that_is_cancelled_at_once_gives_its_place_back(server: FaultServer) -> None:
    async def run() -> None:
        async with half_full(server) as pool:
            server.refuse_streams(methods=[UNARY])
            for _ in range(4):
                call = pool.unary_unary(UNARY)(b"x", timeout=100)
                while not rests(call):  # noqa: ASYNC110  # in the very turn of the loop
                    await asyncio.sleep(0)
                assert call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                assert (call.done(), call.cancelled()) == (True, True)
                assert pool.stats().in_flight == 2

    asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("options", [{}, {"idempotent": UNARY, "retry": RETRY}], ids=str)
def test_it_is_sent_with_the_metadata_that_it_had(
    server: FaultServer, kind: Callable[[list[tuple[str, str]]], Any], options: dict[str, Any]
) -> None:
    async def run() -> None:
        async with half_full(server, **options) as pool:
            server.refuse_streams(methods=[UNARY], times=1)
            metadata = kind([("a", "before")])
            call = pool.unary_unary(UNARY)(b"x", metadata=metadata)
            if kind is list:
                metadata[0] = ("a", "after")
            assert await call == b"x"
            assert dict(server.requests[-1].metadata)["a"] == "before"

    asyncio.run(run())


@pytest.mark.usefixtures("no_end_of_rest")
def test_it_ends_with_whoever_awaits_it(server: FaultServer) -> None:
    async def run() -> None:
        async with half_full(server) as pool:
            call = await begin_refused(server, pool)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(call, 0.2)
            assert call.cancelled()
            await until(lambda: pool.stats().in_flight == 2)

    asyncio.run(run())


@pytest.mark.parametrize("times", [1, 2])
def test_it_goes_elsewhere_if_its_member_is_closed_meanwhile(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    monkeypatch.setattr("grpcpool.aio.clerk.rest", lambda number, timeout: 0.5 if number == times else 0)

    async def run(one: FaultServer, other: FaultServer) -> None:
        async with half_full(one, other, drain_timeout=0.05) as pool:
            for server in (one, other):
                server.refuse_streams(methods=[UNARY], times=times)
            calls = [pool.unary_unary(UNARY)(b"x") for _ in range(2)]
            awaited = [asyncio.ensure_future(call) for call in calls]
            await until(lambda: all(map(rests, calls)))
            await until(lambda: pool.stats().resent == 2 * (times - 1))
            await pool.resize(1)
            await until(lambda: pool.stats().drained == 1)
            assert await asyncio.gather(*awaited) == [b"x", b"x"]

    with FaultServer() as one, FaultServer() as other:
        for server in (one, other):
            server.hang(methods=[STREAM])
        asyncio.run(run(one, other))


@pytest.mark.usefixtures("no_end_of_rest")
def test_a_pool_that_is_closed_meanwhile_ends_it(server: FaultServer) -> None:
    async def run() -> None:
        async with half_full(server) as pool:
            awaited = asyncio.ensure_future(await begin_refused(server, pool))
            await pool.close()
            with pytest.raises(asyncio.CancelledError):
                await awaited

    asyncio.run(run())


def test_with_interceptors_it_is_sent_again_as_well(server: FaultServer) -> None:
    seen: list[grpc.StatusCode] = []

    class Audit(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            call = await continuation(details, request)
            seen.append(await call.code())
            return call

    async def run() -> None:
        async with half_full(server, interceptors=[Audit()]) as pool:
            server.refuse_streams(methods=[UNARY], times=1)
            assert await pool.unary_unary(UNARY)(b"x") == b"x"

    asyncio.run(run())
    assert seen == [UNAVAILABLE, OK]
