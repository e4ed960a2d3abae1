"""Calls of the aio pool that wait inside: they are grpc's own call objects, and behave as such."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool.testing import ECHO, ServerProcess

pytestmark = pytest.mark.integration

ENDLESS = (("count", "1000000"), ("gap", "0.05"))


async def until(condition: Callable[[], object]) -> None:
    async def look() -> None:
        while not condition():  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(0.002)

    await asyncio.wait_for(look(), 10)


class Full:
    """A pool of one member, which a stream without an end has to itself."""

    def __init__(self, target: str, **options: Any) -> None:
        self.pool = grpcpool.aio.insecure_channel(target, size=1, max_concurrent_streams=1, **options)

    async def __aenter__(self) -> Full:  # noqa: PYI034  # `Self` is not there in Python 3.10
        await self.pool.wait_ready()
        self.stream = self.method("ServerStream")(b"x", metadata=ENDLESS)
        return self

    def method(self, name: str) -> Any:
        kinds = {"Unary": "unary_unary", "ServerStream": "unary_stream", "ClientStream": "stream_unary"}
        return getattr(self.pool, kinds.get(name, "stream_stream"))(f"{ECHO}{name}")

    def waiting(self) -> int:
        return self.pool.stats().waiting

    async def waits(self, call: Any) -> Any:
        await until(lambda: self.waiting() == 1)
        assert not call.done()
        return call

    def make_room(self) -> None:
        self.stream.cancel()

    async def __aexit__(self, *exc_info: object) -> None:
        self.stream.cancel()
        await until(lambda: self.pool.stats().in_flight == 0)
        assert await self.method("Unary")(b"room", timeout=60) == b"room"
        await self.pool.close()


def on_a_loop(test: Callable[[Full], Awaitable[None]], target: str, **options: Any) -> None:
    async def run() -> None:
        async with Full(target, **options) as held:
            await test(held)

    asyncio.run(run())


# --- leaving the line


def test_a_call_that_is_cancelled_leaves_the_line(server: ServerProcess) -> None:
    async def test(held: Full) -> None:
        for name in ("Unary", "ServerStream"):
            call = await held.waits(held.method(name)(b"x"))
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await (call if name == "Unary" else call.read())
            assert held.waiting() == 0
            assert call.cancelled()
            assert call.done()
            assert await call.code() is grpc.StatusCode.CANCELLED

    on_a_loop(test, server.target)


def test_a_task_that_is_cancelled_leaves_the_line(server: ServerProcess) -> None:
    async def test(held: Full) -> None:
        async def wait() -> None:
            await held.method("Unary")(b"x")

        task = asyncio.create_task(wait())
        await until(lambda: held.waiting() == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: held.waiting() == 0)

    on_a_loop(test, server.target)


def test_a_call_that_is_cancelled_in_the_moment_it_is_served_gives_its_slot_back(server: ServerProcess) -> None:
    async def test(held: Full) -> None:
        call = await held.waits(held.method("Unary")(b"x", metadata=(("delay", "5"),)))
        held.make_room()
        # As soon as its lease is there; its task may not have run yet.
        await until(lambda: held.waiting() == 0)
        call.cancel()
        await until(lambda: held.pool.stats().in_flight == 0)

    on_a_loop(test, server.target)


def test_a_call_that_waited_can_be_cancelled_while_it_runs(server: ServerProcess) -> None:
    async def test(held: Full) -> None:
        call = await held.waits(held.method("Unary")(b"x", metadata=(("delay", "20"),)))
        held.make_room()
        await until(lambda: held.pool.stats().calls == 2)
        call.cancel()
        await until(lambda: held.pool.stats().in_flight == 0)
        assert await call.code() is grpc.StatusCode.CANCELLED

    on_a_loop(test, server.target)


def test_a_call_that_is_dropped_while_it_waits_leaves_nothing_behind(server: ServerProcess) -> None:
    async def test(held: Full) -> None:
        call = await held.waits(held.method("ServerStream")(b"x", metadata=ENDLESS))
        death = weakref.ref(call)
        del call
        held.make_room()

        def gone() -> bool:
            gc.collect()
            return held.waiting() == 0 and held.pool.stats().in_flight == 0 and death() is None

        await until(gone)

    on_a_loop(test, server.target)


# --- the call object


def test_a_call_is_there_at_once_and_knows_its_end(server: ServerProcess) -> None:
    async def test(held: Full) -> None:
        call = held.method("Unary")(b"x")
        assert isinstance(call, grpc.aio.UnaryUnaryCall)
        told: list[Any] = []
        call.add_done_callback(told.append)
        await held.waits(call)
        assert told == []
        held.make_room()
        assert await call == b"x"
        assert await call == b"x"
        assert await call.code() is grpc.StatusCode.OK
        assert await call.details() == ""
        assert await call.initial_metadata() is not None
        assert await call.trailing_metadata() is not None
        await asyncio.sleep(0)
        assert told == [call]

    on_a_loop(test, server.target)


def test_a_call_that_waits_in_vain_says_so_by_its_status(server: ServerProcess) -> None:
    async def test(held: Full) -> None:
        call = held.method("Unary")(b"x", timeout=0.05)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "waited" in await call.details()
        with pytest.raises(grpcpool.PoolTimeout):
            await call
        stream = held.method("ServerStream")(b"x", timeout=0.05)
        assert await stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpcpool.PoolTimeout):
            await stream.read()

    on_a_loop(test, server.target)


class Seeing(
    grpc.aio.UnaryUnaryClientInterceptor,
    grpc.aio.UnaryStreamClientInterceptor,
    grpc.aio.StreamUnaryClientInterceptor,
    grpc.aio.StreamStreamClientInterceptor,
):
    """An interceptor of every kind that notes what it is given, and passes it on."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        # Not what the pool itself asks for, on a slow machine.
        if ECHO in str(details.method):
            self.seen.append(details)
        return await continuation(details, request)

    intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = intercept_unary_unary


@pytest.mark.parametrize("interceptors", [0, 1, 2])
def test_what_is_written_to_a_stream_that_waits_arrives(server: ServerProcess, interceptors: int) -> None:
    async def test(held: Full) -> None:
        call = await held.waits(held.method("Bidi")())
        write = asyncio.create_task(call.write(b"a"))
        await asyncio.sleep(0)
        held.make_room()
        await write
        assert await call.read() == b"a"
        for number in range(20):
            await call.write(b"%d" % number)
            assert await call.read() == b"%d" % number
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK

    on_a_loop(test, server.target, interceptors=[Seeing() for _ in range(interceptors)])


@pytest.mark.parametrize("interceptors", [0, 1, 2])
def test_what_is_written_to_a_stream_of_requests_that_waits_arrives(server: ServerProcess, interceptors: int) -> None:
    async def test(held: Full) -> None:
        call = await held.waits(held.method("ClientStream")())
        write = asyncio.create_task(call.write(b"a"))
        await asyncio.sleep(0)
        held.make_room()
        await write
        await call.write(b"b")
        await call.done_writing()
        assert await call == b"ab"

    on_a_loop(test, server.target, interceptors=[Seeing() for _ in range(interceptors)])


@pytest.mark.parametrize("interceptors", [0, 1, 2])
def test_iterators_of_requests_wait_along(server: ServerProcess, interceptors: int) -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    async def test(held: Full) -> None:
        for given in (requests(), iter([b"a", b"b"])):
            both = [held.method("Bidi")(given)]
            await held.waits(both[0])
            held.make_room()
            assert [message async for message in both[0]] == [b"a", b"b"]
            held.stream = held.method("ServerStream")(b"x", metadata=ENDLESS)
            await held.stream.read()

    on_a_loop(test, server.target, interceptors=[Seeing() for _ in range(interceptors)])


@pytest.mark.parametrize("name", ["Unary", "ServerStream", "ClientStream", "Bidi"])
def test_an_rpc_that_waited_passes_the_interceptors_with_all_it_has(server: ServerProcess, name: str) -> None:
    seeing = Seeing()

    async def test(held: Full) -> None:
        await held.stream.read()
        call = held.method(name)(
            *([b"x"] if name in ("Unary", "ServerStream") else [iter([b"x"])]),
            timeout=60,
            metadata=(("count", "1"), ("mark", "here"), ("data-bin", b"\x00\xff")),
            wait_for_ready=True,
            compression=grpc.Compression.Gzip,
        )
        await held.waits(call)
        assert len(seeing.seen) == 1, "it is not under way yet"
        held.make_room()
        if name in ("Unary", "ClientStream"):
            assert await call == b"x"
        else:
            assert [message async for message in call] == [b"x"]
        (details,) = seeing.seen[1:]
        assert details.wait_for_ready is True
        assert 0 < details.timeout <= 60
        given = list(details.metadata)
        for pair in (("count", "1"), ("mark", "here"), ("data-bin", b"\x00\xff")):
            assert given.count(pair) == 1
        assert [value for key, value in given if "encoding" in key] == ["gzip"]

    on_a_loop(test, server.target, interceptors=[seeing])


# --- order


@pytest.mark.parametrize(("size", "cap"), [(1, 1), (3, 4)])
def test_five_hundred_tasks_are_served_in_the_order_in_which_they_came(
    server: ServerProcess, size: int, cap: int
) -> None:
    order: list[int] = []

    def serialize(number: int) -> bytes:
        order.append(number)
        return b"%d" % number

    async def run() -> None:
        # One after the other, on the slowest machine.
        limits = {"max_concurrent_streams": cap, "acquire_timeout": 200.0}
        async with grpcpool.aio.insecure_channel(server.target, size=size, **limits) as pool:
            await pool.wait_ready(min_ready=size)
            method = pool.unary_unary(f"{ECHO}Unary", serialize, int)

            async def call(number: int) -> int:
                answer: int = await method(number)
                return answer

            assert await asyncio.gather(*(call(number) for number in range(500))) == list(range(500))
            assert pool.stats().waited == 500 - size * cap

    asyncio.run(run())
    assert order == list(range(500))
