"""The books are right after thousands of RPCs of every kind and every end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

import grpc
import pytest

import grpcpool
from grpcpool.testing import ECHO, ServerProcess

from .waiting import until

pytestmark = pytest.mark.integration

THREADS = 16
TASKS = 200

FAIL = (("code", "INTERNAL"),)
SLOW = (("delay", "10"),)
ENDLESS = (("count", "1000000"), ("gap", "0.05"))


@pytest.fixture(params=[2_000, pytest.param(10_000, marks=pytest.mark.stress)])
def rpcs(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


@pytest.fixture(params=[False, True], ids=["", "1µs"])
def interval(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run once as always, and once with threads that change places as often as they can."""
    before = sys.getswitchinterval()
    if request.param:
        sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Methods:
    """The four methods of the echo service on one channel."""

    def __init__(self, channel: Any) -> None:
        self.unary = channel.unary_unary(f"{ECHO}Unary")
        self.broken = channel.unary_unary(f"{ECHO}Unary", request_serializer=_break)
        self.server_stream = channel.unary_stream(f"{ECHO}ServerStream")
        self.client_stream = channel.stream_unary(f"{ECHO}ClientStream")
        self.bidi = channel.stream_stream(f"{ECHO}Bidi")


def _break(message: object) -> NoReturn:
    raise RuntimeError("a serializer of the user's that raises")


class UsersError(Exception):
    """What the user's own loop raises."""


# --- sync: every way in which an RPC can end


def _requests() -> Iterator[bytes]:
    yield b"a"
    yield b"b"


def _endless() -> Iterator[bytes]:
    while True:
        yield b"x" * 1000


def _faulty() -> Iterator[bytes]:
    yield b"a"
    raise UsersError


def sync_endings(m: Methods) -> list[Any]:
    def succeed() -> None:
        m.unary(b"x")
        m.unary.with_call(b"x")
        m.unary.future(b"x").result()
        list(m.server_stream(b"x"))
        m.client_stream(_requests())
        m.client_stream.with_call(_requests())
        m.client_stream.future(_requests()).result()
        list(m.bidi(_requests()))

    def fail() -> None:
        for call in (
            lambda: m.unary(b"x", metadata=FAIL),
            lambda: m.unary.with_call(b"x", metadata=FAIL),
            lambda: m.unary.future(b"x", metadata=FAIL).result(),
            lambda: list(m.server_stream(b"x", metadata=FAIL)),
            lambda: m.client_stream(_requests(), metadata=FAIL),
            lambda: list(m.bidi(_requests(), metadata=FAIL)),
            lambda: m.unary(b"x", timeout=0.001, metadata=SLOW),
            lambda: m.unary.future(b"x", timeout=0.001, metadata=SLOW).result(),
            lambda: list(m.server_stream(b"x", timeout=0.01, metadata=ENDLESS)),
            lambda: m.broken(b"x"),
            lambda: m.client_stream(_faulty()),
        ):
            with contextlib.suppress(grpc.RpcError):
                call()

    def cancel() -> None:
        for call in (
            m.unary.future(b"x", metadata=SLOW),
            m.server_stream(b"x", metadata=ENDLESS),
            m.client_stream.future(_endless(), metadata=SLOW),
            m.bidi(_endless()),
        ):
            call.cancel()
        call = m.server_stream(b"x", metadata=ENDLESS)
        next(call)
        call.cancel()
        done = m.unary.future(b"x")
        done.result()
        done.cancel()

    def abandon() -> None:
        m.unary.future(b"x", metadata=SLOW)
        m.server_stream(b"x", metadata=ENDLESS)
        next(m.server_stream(b"x", metadata=ENDLESS))
        m.bidi(_requests())
        m.client_stream.future(_requests())
        try:
            for _ in m.server_stream(b"x", metadata=ENDLESS):
                raise UsersError
        except UsersError:
            pass

    # How many RPCs each of them makes.
    return [(succeed, 8), (fail, 11), (cancel, 6), (abandon, 6)]


def test_sync(server: ServerProcess, interval: None, rpcs: int) -> None:
    with grpcpool.insecure_channel(server.target, size=4) as pool:
        pool.wait_ready(min_ready=4)
        endings = sync_endings(Methods(pool))
        made = [0] * THREADS
        errors: list[BaseException] = []

        def work(number: int) -> None:
            chance = random.Random(number)
            try:
                while made[number] < rpcs / THREADS:
                    ending, count = chance.choice(endings)
                    ending()
                    made[number] += count
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert sum(made) >= rpcs

        def balanced() -> bool:
            gc.collect()
            return pool.stats().in_flight == 0

        until(balanced)
        # A broken serializer may fail an RPC before it has begun, but it has been given a place, so it counts as well.
        assert pool.stats().calls == sum(made)
        assert all(member.in_flight == 0 for member in pool.stats().members)


def test_sync_with_streams_that_use_one_thread(server: ServerProcess) -> None:
    options = [(grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)]
    with grpcpool.insecure_channel(server.target, options, size=2) as pool:
        pool.wait_ready(min_ready=2)
        stream = pool.unary_stream(f"{ECHO}ServerStream")
        assert list(stream(b"x")) == [b"x"] * 3
        half_read = stream(b"x", metadata=ENDLESS)
        assert next(half_read) == b"x"
        cancelled = stream(b"x", metadata=ENDLESS)
        cancelled.cancel()
        del half_read, cancelled

        def balanced() -> bool:
            gc.collect()
            return pool.stats().in_flight == 0

        until(balanced)


# --- aio: the same


async def _arequests() -> AsyncIterator[bytes]:
    yield b"a"
    yield b"b"


async def _aendless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 1000
        await asyncio.sleep(0.01)


async def _afaulty() -> AsyncIterator[bytes]:
    yield b"a"
    raise UsersError


async def _all(call: Any) -> list[bytes]:
    return [message async for message in call]


def aio_endings(m: Methods) -> list[Any]:
    async def succeed() -> None:
        await m.unary(b"x")
        await _all(m.server_stream(b"x"))
        await m.client_stream(_arequests())
        await _all(m.bidi(_arequests()))
        call = m.bidi()
        await call.write(b"x")
        await call.done_writing()
        await call.read()
        await call.read()

    async def fail() -> None:
        for begin in (
            lambda: m.unary(b"x", metadata=FAIL),
            lambda: _all(m.server_stream(b"x", metadata=FAIL)),
            lambda: m.client_stream(_arequests(), metadata=FAIL),
            lambda: _all(m.bidi(_arequests(), metadata=FAIL)),
            lambda: m.unary(b"x", timeout=0.001, metadata=SLOW),
            lambda: _all(m.server_stream(b"x", timeout=0.01, metadata=ENDLESS)),
            lambda: m.client_stream(_afaulty()),
        ):
            with contextlib.suppress(grpc.RpcError, asyncio.CancelledError):
                await begin()
        with contextlib.suppress(RuntimeError):
            await m.broken(b"x")

    async def cancel() -> None:
        for call in (
            m.unary(b"x", metadata=SLOW),
            m.server_stream(b"x", metadata=ENDLESS),
            m.client_stream(_aendless(), metadata=SLOW),
            m.bidi(_aendless()),
        ):
            call.cancel()
        call = m.server_stream(b"x", metadata=ENDLESS)
        await call.read()
        call.cancel()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(m.unary(b"x", metadata=SLOW), 0.005)
        call = m.unary(b"x")
        await call
        call.cancel()

    async def abandon() -> None:
        m.server_stream(b"x", metadata=ENDLESS)
        await m.server_stream(b"x", metadata=ENDLESS).read()
        m.unary(b"x")
        m.bidi(_arequests())
        try:
            async for _ in m.server_stream(b"x", metadata=ENDLESS):
                raise UsersError
        except UsersError:
            pass

    return [(succeed, 5), (fail, 8), (cancel, 7), (abandon, 5)]


def test_aio(server: ServerProcess, interval: None, rpcs: int) -> None:
    async def main() -> None:
        async with grpcpool.aio.insecure_channel(server.target, size=4) as pool:
            await pool.wait_ready(min_ready=4)
            endings = aio_endings(Methods(pool))
            made = [0] * TASKS

            async def work(number: int) -> None:
                chance = random.Random(number)
                while made[number] < rpcs / TASKS:
                    ending, count = chance.choice(endings)
                    await ending()
                    made[number] += count

            await asyncio.gather(*map(work, range(TASKS)))
            assert sum(made) >= rpcs
            for _ in range(3000):
                gc.collect()
                if pool.stats().in_flight == 0:
                    break
                await asyncio.sleep(0.01)
            assert pool.stats().in_flight == 0
            assert pool.stats().calls == sum(made)

    asyncio.run(main())
