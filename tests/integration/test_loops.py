"""One aio pool and several event loops: one after the other, and, with ``per_loop=True``, side by side."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool import events
from grpcpool.aio.room import AioRoom
from grpcpool.testing import ECHO, ServerProcess

from .waiting import connections, until

pytestmark = pytest.mark.integration

UNARY = f"{ECHO}Unary"


async def use(pool: Any, times: int = 10) -> None:
    """Make calls of all four kinds."""
    request = (b"a", b"b")
    for _ in range(times):
        assert await pool.unary_unary(UNARY)(b"x", timeout=60) == b"x"
    assert [message async for message in pool.unary_stream(f"{ECHO}ServerStream")(b"x")] == [b"x"] * 3
    assert await pool.stream_unary(f"{ECHO}ClientStream")(iter(request)) == b"ab"
    assert [message async for message in pool.stream_stream(f"{ECHO}Bidi")(iter(request))] == [b"a", b"b"]


def uvloop_loop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


@pytest.fixture(params=[asyncio.new_event_loop, uvloop_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """What `asyncio.run` does, on a new loop of one kind or the other."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        loop = request.param()
        try:
            return loop.run_until_complete(main)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    return run


def in_threads(count: int, work: Callable[[], object]) -> None:
    failed: list[BaseException] = []

    def each() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=each) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_the_next_loop_gets_fresh_members_once_the_last_one_is_closed(server: ServerProcess, run: Any) -> None:
    seen: list[events.Event] = []
    pool = grpcpool.aio.insecure_channel(server.target, size=2, listeners=seen.append, max_concurrent_streams=1)
    method = pool.unary_unary(UNARY)

    async def main() -> grpc.aio.Channel:
        await pool.wait_ready(min_ready=2)
        await use(pool)
        # More than there is room for, so that some take the slow lane.
        assert await asyncio.gather(*(method(b"x") for _ in range(6))) == [b"x"] * 6
        assert pool.stats().in_flight == 0
        return pool.get_channel()

    own = run(main())

    async def again() -> None:
        assert await own.unary_unary(UNARY)(b"x") == b"x"
        await main()

    run(again())
    assert sum(isinstance(event, events.Opened) for event in seen) == 2

    async def end() -> None:
        await pool.close()
        with pytest.raises(grpcpool.PoolClosed):
            await method(b"x")

    run(end())
    with pytest.raises(grpcpool.PoolClosed):
        run(pool.wait_ready())


def test_states_are_those_of_the_next_loop(server: ServerProcess, run: Any) -> None:
    pool = grpcpool.aio.insecure_channel(server.target, size=1)

    async def main() -> None:
        assert pool.get_state(try_to_connect=True) is grpc.ChannelConnectivity.IDLE
        await pool.wait_for_state_change(grpc.ChannelConnectivity.IDLE)
        await pool.channel_ready()
        assert pool.get_state() is grpc.ChannelConnectivity.READY

    run(main())
    run(main())

    async def wait() -> None:
        # It is not READY here, as it was there.
        await asyncio.wait_for(pool.wait_for_state_change(grpc.ChannelConnectivity.READY), 10)
        await pool.close()

    run(wait())


def test_a_loop_that_is_open_keeps_the_pool(server: ServerProcess) -> None:
    pool = grpcpool.aio.insecure_channel(server.target, size=1)
    first = asyncio.new_event_loop()
    first.run_until_complete(use(pool))
    with pytest.raises(grpc.aio.UsageError, match="per_loop=True"):
        asyncio.run(use(pool))
    first.run_until_complete(use(pool))
    first.run_until_complete(pool.close())
    first.close()


@pytest.fixture
def pool(server: ServerProcess) -> Iterator[grpcpool.aio.ChannelPool]:
    """One with members for each loop."""
    pool = grpcpool.aio.insecure_channel(server.target, size=2, per_loop=True, name="loops")
    yield pool
    asyncio.run(pool.close())


def test_each_loop_has_members_of_its_own(pool: grpcpool.aio.ChannelPool, run: Any) -> None:
    method = pool.unary_unary(UNARY)
    barrier = threading.Barrier(3)

    async def main() -> None:
        await pool.wait_ready(min_ready=2)
        # All loops run at once.
        await asyncio.to_thread(barrier.wait, 30)
        for _ in range(20):
            assert await method(b"x", timeout=60) == b"x"
        await use(pool, times=0)
        await pool.scale_up(1)
        stats = pool.stats()
        assert (stats.size, stats.calls, stats.in_flight) == (3, 23, 0)
        assert pool.status().current_size == 3
        await asyncio.to_thread(barrier.wait, 30)

    in_threads(3, lambda: run(main()))
    assert grpcpool.get_pool("loops") is pool


def test_a_loop_that_ends_takes_its_members_with_it(server: ServerProcess, run: Any, recwarn: Any) -> None:
    seen: list[str] = []
    pool = grpcpool.aio.insecure_channel(
        server.target, size=2, per_loop=True, listeners=lambda event: seen.append(type(event).__name__)
    )
    for number in range(1, 4):
        run(use(pool))
        assert (seen.count("Opened"), seen.count("Closed")) == (number, number)
    run(pool.close())
    assert seen.count("Opened") == 3


def test_a_loop_that_is_closed_out_of_hand_is_forgotten(make_server: Callable[..., ServerProcess]) -> None:
    server = make_server()
    pool = grpcpool.aio.insecure_channel(server.target, size=2, per_loop=True)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use(pool))
        loop.close()
        assert "0 now" in repr(pool)
        until(lambda: connections(server.port) == 2)
    # What ends as it should is closed there and then, and by the way what did not.
    asyncio.run(use(pool))
    until(lambda: connections(server.port) == 0)
    asyncio.run(pool.close())


def test_many_loops_that_are_closed_out_of_hand_are_forgotten_at_the_same_time(server: ServerProcess) -> None:
    pool = grpcpool.aio.insecure_channel(server.target, size=1, per_loop=True)
    for _ in range(10):
        together = threading.Barrier(6)

        def once(together: threading.Barrier = together) -> None:
            async def call() -> bytes:
                answer: bytes = await pool.unary_unary(UNARY)(b"x", timeout=60)
                return answer

            together.wait(60)
            loop = asyncio.new_event_loop()
            try:
                assert loop.run_until_complete(call()) == b"x"
            finally:
                loop.close()

        in_threads(6, once)
    asyncio.run(use(pool))
    asyncio.run(pool.close())


def test_a_loop_that_begins_while_it_is_closed_is_refused(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = grpcpool.aio.insecure_channel(server.target, size=1, per_loop=True)
    beginning, go_on = threading.Event(), threading.Event()

    class Slow(AioRoom):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            beginning.set()
            assert go_on.wait(60)

    monkeypatch.setattr("grpcpool.aio.per_loop.AioRoom", Slow)

    async def late() -> None:
        method = pool.unary_unary(UNARY)
        for _ in range(2):
            with pytest.raises(grpcpool.PoolClosed):
                await method(b"x", timeout=60)

    def close() -> None:
        assert beginning.wait(60)
        asyncio.run(pool.close())
        go_on.set()

    closing = threading.Thread(target=close)
    closing.start()
    asyncio.run(late())
    closing.join()


def test_closing_closes_it_on_every_loop(server: ServerProcess) -> None:
    pool = grpcpool.aio.insecure_channel(server.target, size=1, per_loop=True, name="closing")
    method = pool.unary_unary(UNARY)
    ready, over = threading.Event(), threading.Event()
    outcome: list[Any] = []

    async def elsewhere() -> None:
        stream = pool.unary_stream(f"{ECHO}ServerStream")(b"x", metadata=(("count", "1000"), ("gap", "10")))
        await stream.read()
        ready.set()
        try:
            await stream.read()
        except asyncio.CancelledError:
            outcome.append(await stream.code())
        await asyncio.to_thread(over.wait, 30)
        with pytest.raises(grpcpool.PoolClosed):
            await method(b"x")

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    assert ready.wait(30)

    async def main() -> None:
        await use(pool)
        await pool.close()
        with pytest.raises(grpc.aio.UsageError, match="is closed"):
            await method(b"x")
        # As often as one likes.
        await pool.close()

    asyncio.run(main())
    over.set()
    thread.join()
    assert outcome == [grpc.StatusCode.CANCELLED]
    assert "closing" not in grpcpool.pools()
    with pytest.raises(grpcpool.PoolClosed):
        asyncio.run(use(pool))


def test_closing_with_grace_lets_calls_end(server: ServerProcess) -> None:
    async def main() -> None:
        async with grpcpool.aio.insecure_channel(server.target, size=1, per_loop=True) as pool:
            call = pool.unary_unary(UNARY)(b"x", metadata=(("delay", "0.3"),))
            assert pool.stats().in_flight == 1
            await pool.close(grace=20)
            assert await call == b"x"

    asyncio.run(main())


def test_listeners_come_and_go_on_all_loops(pool: grpcpool.aio.ChannelPool) -> None:
    first: list[events.Event] = []
    second: list[events.Event] = []
    pool.add_listener(first.append)

    async def main() -> None:
        pool.add_listener(second.append)
        await use(pool)
        pool.remove_listener(second.append)
        second.clear()
        await use(pool)

    asyncio.run(main())
    assert first
    first.clear()
    pool.remove_listener(first.append)
    pool.remove_listener(print)
    asyncio.run(use(pool))
    assert first == second == []


def test_without_a_loop_it_says_so(pool: grpcpool.aio.ChannelPool) -> None:
    method = pool.unary_unary(UNARY)
    for ask in (pool.stats, pool.status, pool.get_channel, pool.get_state, lambda: method(b"x")):
        with pytest.raises(grpc.aio.UsageError, match="no loop runs here"):
            ask()


def test_interceptors_that_are_added_later_count_on_all_loops(pool: grpcpool.aio.ChannelPool) -> None:
    seen: list[Any] = []

    class Interceptor(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            seen.append(request)
            return await continuation(client_call_details, request)

    asyncio.run(use(pool, times=1))
    pool._unary_unary_interceptors.append(Interceptor())
    asyncio.run(use(pool, times=2))
    assert seen == [b"x"] * 2


def test_it_is_a_channel_pool(pool: grpcpool.aio.ChannelPool) -> None:
    assert isinstance(pool, grpcpool.aio.ChannelPool)
    assert isinstance(pool.unary_unary(UNARY), grpc.aio.UnaryUnaryMultiCallable)
    assert isinstance(pool.unary_stream(UNARY), grpc.aio.UnaryStreamMultiCallable)
    assert isinstance(pool.stream_unary(UNARY), grpc.aio.StreamUnaryMultiCallable)
    assert isinstance(pool.stream_stream(UNARY), grpc.aio.StreamStreamMultiCallable)


def test_what_does_not_go_with_it_is_refused() -> None:
    with pytest.raises(grpcpool.ConfigError, match="only aio pools belong to loops"):
        grpcpool.insecure_channel("localhost:1", per_loop=True)
    with pytest.raises(grpcpool.ConfigError, match="a strategy object serves one pool"):
        grpcpool.aio.insecure_channel("localhost:1", per_loop=True, strategy=grpcpool.strategies.RoundRobin())
    with pytest.raises(grpcpool.ConfigError, match="strategy"):
        grpcpool.aio.insecure_channel("localhost:1", per_loop=True, strategy="no such thing")
