"""Bad days: nobody there, closed, resized twice at once, half dead, badly advised, badly listened to. In both rooms."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool import NotConnected, PoolClosed, PoolError, PoolTimeout, ScalingError, events
from grpcpool.testing import ECHO, ServerProcess

pytestmark = pytest.mark.integration

UNARY = f"{ECHO}Unary"
# How much later than its timeout a wait may end on a busy machine.
LATE = 10.0


async def do(function: Any, *arguments: Any, **named: Any) -> Any:
    """Call what blocks in the sync room, in a thread of its own, and what is awaited in the aio one."""
    if function.__module__.startswith("grpcpool.aio"):
        return await function(*arguments, **named)
    return await asyncio.to_thread(function, *arguments, **named)


async def until(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        await asyncio.sleep(0.01)


def both(spec: Callable[..., Awaitable[None]]) -> Any:
    """Make one coroutine function a test of the sync and of the aio pool."""

    @pytest.mark.parametrize("room", [grpcpool, grpcpool.aio], ids=["sync", "aio"])
    @functools.wraps(spec)
    def test(**fixtures: Any) -> None:
        asyncio.run(spec(**fixtures))  # type: ignore[arg-type]

    return test


@asynccontextmanager
async def pool_of(room: ModuleType, target: Any, **options: Any) -> AsyncIterator[Any]:
    options = {"size": 2, "backoff_min": 0.1, "backoff_max": 0.5, "connect_timeout": 5.0, **options}
    pool = room.insecure_channel(target, **options)
    try:
        yield pool
    finally:
        await do(pool.close)


async def explained(pool: Any, error: str, target: str | None = None) -> None:
    """Open the pool, and wait until its members, or those with that target, know why they don't connect."""
    await do(pool.open)

    def known() -> bool:
        members = [each for each in pool.stats().members if target is None or each.endpoint == target]
        return all(error in (each.last_error or "") for each in members)

    await until(known)


async def echo(pool: Any, **named: Any) -> None:
    assert await do(pool.unary_unary(UNARY), b"x", timeout=60, **named) == b"x"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as process:
        yield process


@pytest.fixture
def own_server() -> Iterator[ServerProcess]:
    """A server to be killed or frozen."""
    with ServerProcess() as process:
        yield process


def freeze(process: ServerProcess) -> None:
    """Freeze a server, and return when the last of its threads stands still: until then it may accept a connection."""
    process.pause()
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


@pytest.fixture(scope="module")
def dead() -> Iterator[str]:
    """A target where nobody listens, nor will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    """A target that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


# --- nobody there


@both
@pytest.mark.parametrize(
    ("where", "error"),
    [("dead", "Connection refused"), ("unix:/no/such/socket", "No such file"), ("silent", "last connection error: ")],
)
async def test_nobody_there(room: ModuleType, where: str, error: str, request: pytest.FixtureRequest) -> None:
    target = where if ":" in where else request.getfixturevalue(where)
    async with pool_of(room, target, connect_timeout=0.5) as pool:
        await explained(pool, error.removeprefix("last connection error: "), target)
        started = time.monotonic()
        with pytest.raises(PoolTimeout, match=error) as caught:
            await do(pool.wait_ready, 1.0)
        assert 1.0 <= time.monotonic() - started < 1.0 + LATE
        assert isinstance(caught.value, TimeoutError)
        assert target in str(caught.value)
        if where != "silent":
            assert error in pool.stats().members[0].last_error
        assert pool.status() == grpcpool.PoolStatus(target, 2, 0, "down")
        with pytest.raises(NotConnected, match=error):
            pool.get_channel()
        with pytest.raises(grpc.RpcError) as failed:
            await echo(pool)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert type(failed.value).__module__.startswith("grpc.")
        assert pool.stats().in_flight == 0


@both
async def test_a_silent_peer_is_told_of_once_its_time_is_up(room: ModuleType, silent: str) -> None:
    async with pool_of(room, silent, connect_timeout=0.3) as pool:
        await explained(pool, silent)
        with pytest.raises(PoolTimeout, match=f"last connection error: .*{silent}"):
            await do(pool.wait_ready, 0.1)


@both
async def test_before_the_first_answer_get_channel_says_so(room: ModuleType, silent: str) -> None:
    async with pool_of(room, silent) as pool:
        with pytest.raises(NotConnected, match="2 connecting"):
            pool.get_channel()


@both
async def test_half_of_the_targets_suffice(room: ModuleType, server: ServerProcess, dead: str) -> None:
    async with pool_of(room, [server.target, dead]) as pool:
        await do(pool.wait_ready)
        for _ in range(6):
            await echo(pool)
        assert pool.status().status == "degraded"
        await explained(pool, "Connection refused", dead)
        with pytest.raises(PoolTimeout, match="Connection refused"):
            await do(pool.wait_ready, 0.5, min_ready=2)


@both
async def test_a_wait_that_makes_no_sense_is_refused(room: ModuleType, server: ServerProcess) -> None:
    async with pool_of(room, server.target) as pool:
        for few in (0, 3, -1, True, 1.0, "1"):
            with pytest.raises(ValueError, match=r"n: |min_ready"):
                await do(pool.wait_ready, 1.0, min_ready=few)
        for time_out in (-1, float("nan"), "1"):
            with pytest.raises((ValueError, TypeError), match="timeout"):
                await do(pool.wait_ready, time_out)
        for grace in (-1, float("nan"), "1"):
            with pytest.raises((ValueError, TypeError), match="grace"):
                await do(pool.close, grace)
        await echo(pool)


# --- closed


@both
async def test_use_after_close(room: ModuleType, server: ServerProcess) -> None:
    async with pool_of(room, server.target) as pool:
        await do(pool.wait_ready)
        bound, method = pool.get_channel(), pool.unary_unary(UNARY)
        await do(pool.close)
        await do(pool.close)
        uses: dict[str, tuple[Any, ...]] = {
            "method": (method, b"x"),
            "bound": (bound.unary_unary(UNARY), b"x"),
            "unary": (pool.unary_unary(UNARY), b"x"),
            "server stream": (pool.unary_stream(f"{ECHO}ServerStream"), b"x"),
            "client stream": (pool.stream_unary(f"{ECHO}ClientStream"), iter([b"x"])),
            "bidi": (pool.stream_stream(f"{ECHO}Bidi"), iter([b"x"])),
            "open": (pool.open,),
            "wait_ready": (pool.wait_ready, 1.0),
            "scale_up": (pool.scale_up, 1),
            "scale_down": (pool.scale_down, 1),
            "resize": (pool.resize, 3),
        }
        if room is grpcpool.aio:
            uses["channel_ready"] = (pool.channel_ready,)
        # As grpc itself raises it in the same case.
        also = grpc.aio.UsageError if room is grpcpool.aio else ValueError
        for name, use in uses.items():
            with pytest.raises(PoolClosed, match="closed") as caught:
                await do(*use)
            assert isinstance(caught.value, also), name
        with pytest.raises(PoolClosed):
            pool.get_channel()
        assert pool.status().current_size == 0
        assert pool.stats().in_flight == 0
        assert "closed" in repr(pool)


@both
async def test_closing_ends_those_who_wait(room: ModuleType, silent: str) -> None:
    async with pool_of(room, silent) as pool:
        await do(pool.open)
        waits = [asyncio.create_task(do(pool.wait_ready, 30.0)), asyncio.create_task(do(pool.scale_up, 1))]
        await until(lambda: len(pool.stats().members) == 3)
        await do(pool.close)
        for wait in waits:
            with pytest.raises(PoolClosed):
                await asyncio.wait_for(wait, 5.0)


# --- resizing


@both
async def test_a_pool_cannot_be_emptied(room: ModuleType, server: ServerProcess) -> None:
    seen: list[events.Event] = []
    async with pool_of(room, server.target) as pool:
        await do(pool.wait_ready, min_ready=2)
        pool.add_listener(seen.append)
        before = [member.id for member in pool.stats().members]
        for method, n in (("scale_down", 2), ("scale_down", 3), ("resize", 0), ("resize", -1)):
            with pytest.raises(ScalingError, match="at least one") as caught:
                await do(getattr(pool, method), n)
            assert caught.value.size == 2
        for method, n in (("scale_up", 0), ("scale_up", -1), ("scale_down", 0), ("scale_up", 1.5), ("resize", "3")):
            with pytest.raises(ValueError, match="n: "):
                await do(getattr(pool, method), n)
        assert [member.id for member in pool.stats().members] == before
        assert pool.status().current_size == 2
        assert not [event for event in seen if isinstance(event, events.Scaling)]


@both
@pytest.mark.parametrize("second", ["scale_up", "scale_down", "resize"])
async def test_of_two_resizes_at_once_one_wins(room: ModuleType, own_server: ServerProcess, second: str) -> None:
    async with pool_of(room, own_server.target, connect_timeout=20.0) as pool:
        await do(pool.wait_ready, min_ready=2)
        freeze(own_server)
        first = asyncio.create_task(do(pool.scale_up, 2))
        await until(lambda: len(pool.stats().members) == 4)
        with pytest.raises(ScalingError, match=r"already scaling.*2 of 2") as caught:
            await do(getattr(pool, second), 1)
        assert (caught.value.size, pool.status().expected_size) == (2, 2)
        own_server.resume()
        assert await first == 4
        assert pool.status() == grpcpool.PoolStatus(own_server.target, 4, 4, "healthy")
        assert await do(pool.resize, 3) == 3


@both
async def test_two_resizes_at_the_very_same_moment(room: ModuleType, own_server: ServerProcess) -> None:
    async with pool_of(room, own_server.target, connect_timeout=20.0) as pool:
        await do(pool.wait_ready, min_ready=2)
        freeze(own_server)
        tasks = {n: asyncio.create_task(do(pool.scale_up, n)) for n in (1, 2)}
        done, _ = await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        own_server.resume()
        assert [type(task.exception()) for task in done] == [ScalingError]
        (winner,) = (n for n, task in tasks.items() if task not in done)
        assert await tasks[winner] == 2 + winner
        assert pool.status().current_size == 2 + winner


@both
async def test_growing_where_half_of_the_targets_are_dead(room: ModuleType, server: ServerProcess, dead: str) -> None:
    seen: list[events.Event] = []
    async with pool_of(room, [server.target, dead], listeners=seen.append, connect_timeout=30.0) as pool:
        await do(pool.wait_ready)
        with pytest.raises(ScalingError, match="Connection refused") as caught:
            await do(pool.scale_up, 4)
        error = caught.value
        assert (error.requested, error.succeeded, error.failed, error.size) == (4, 2, 2, 4)
        assert pool.status().expected_size == 4
        (scaled,) = (event for event in seen if isinstance(event, events.ScaledUp))
        assert (scaled.requested, scaled.succeeded, scaled.failed, scaled.new_size) == (4, 2, 2, 4)
        for _ in range(8):
            await echo(pool)


@both
async def test_growing_when_the_server_is_gone(room: ModuleType, own_server: ServerProcess) -> None:
    async with pool_of(room, own_server.target, connect_timeout=30.0) as pool:
        await do(pool.wait_ready, min_ready=2)
        own_server.kill()
        await until(lambda: pool.status().current_size == 0)
        with pytest.raises(ScalingError, match="Connection refused") as caught:
            await do(pool.scale_up, 3)
        error = caught.value
        assert (error.requested, error.succeeded, error.failed, error.size) == (3, 0, 3, 2)
        await until(lambda: len(pool.stats().members) == 2)
        own_server.start()
        await do(pool.wait_ready, 20.0, min_ready=2)
        assert await do(pool.scale_up, 1) == 3


@both
async def test_growing_towards_a_silent_peer_ends_in_time(room: ModuleType, silent: str) -> None:
    async with pool_of(room, silent, connect_timeout=1.0) as pool:
        started = time.monotonic()
        with pytest.raises(ScalingError) as caught:
            await do(pool.scale_up, 1)
        assert time.monotonic() - started < 1.0 + LATE
        assert (caught.value.succeeded, caught.value.failed, caught.value.size) == (0, 1, 2)


def test_a_resize_that_nobody_waits_for_any_more_does_not_wedge_the_pool(own_server: ServerProcess) -> None:
    async def spec() -> None:
        async with pool_of(grpcpool.aio, own_server.target, connect_timeout=20.0) as pool:
            await pool.wait_ready(min_ready=2)
            freeze(own_server)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(pool.scale_up(1), 0.2)
            own_server.resume()
            await until(lambda: pool.status().current_size == 3)
            assert await pool.resize(2) == 2

    asyncio.run(spec())


# --- loops


def test_a_second_loop_is_refused_and_both_are_named(server: ServerProcess) -> None:
    pool = grpcpool.aio.insecure_channel(server.target, size=1)
    ready, over = threading.Event(), threading.Event()
    home: list[asyncio.AbstractEventLoop] = []

    async def live() -> None:
        home.append(asyncio.get_running_loop())
        await pool.wait_ready()
        ready.set()
        await asyncio.to_thread(over.wait, 20.0)
        await pool.close()

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    assert ready.wait(10.0)

    async def trespass(use: Callable[[], Any]) -> str:
        with pytest.raises(PoolError, match="belongs to") as caught:
            await use()
        assert isinstance(caught.value, grpc.aio.UsageError)
        return str(caught.value)

    try:
        uses: list[Callable[[], Any]] = [
            lambda: pool.wait_ready(1.0),
            pool.open,
            pool.close,
            pool.channel_ready,
            lambda: pool.scale_up(1),
            lambda: pool.unary_unary(UNARY)(b"x"),
            lambda: pool.get_channel().unary_unary(UNARY)(b"x"),
            lambda: pool.wait_for_state_change(grpc.ChannelConnectivity.READY),
        ]
        for use in uses:
            message = asyncio.run(trespass(use))
            # Two loops of one class that both run have the same repr; a name must tell them apart.
            belongs, _, used = message.partition("cannot be used on")
            assert re.findall("<.*?>|0x[0-9a-f]+", belongs) != re.findall("<.*?>|0x[0-9a-f]+", used), message
        assert pool.status().current_size == 1
    finally:
        over.set()
        thread.join(10.0)


def test_pools_on_one_loop_after_another_leave_nothing_behind(
    server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    async def use() -> None:
        async with pool_of(grpcpool.aio, server.target) as pool:
            await pool.wait_ready(min_ready=2)
            await echo(pool)

    for _ in range(20):
        asyncio.run(use())
    # What an operation that outlived its loop would leave in the log ("Event loop is closed").
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


# --- bad advice


class Advisor:
    """A strategy that goes wrong in the way that it is told."""

    def __init__(self, wrong: str) -> None:
        self.wrong = wrong
        self.first: Any = None
        self.builds = 0

    def build(self, members: Any, *, rng: Any, clock: Any) -> Any:
        self.builds += 1
        self.first = self.first or members[0]
        if self.wrong == "raises in build" or (self.wrong == "raises later" and self.builds > 1):
            raise RuntimeError("no idea")
        return {
            "raises later": lambda: self.first,
            "is not callable": 5,
            "picks raise": lambda: 1 / 0,
            "picks nothing": lambda: None,
            "picks a stranger": lambda: type(self.first)(99, "elsewhere:1"),
            "picks what has no hash": list,
            "takes an argument": lambda key: members[0],
            "always picks the first it ever saw": lambda: self.first,
        }[self.wrong]


@both
@pytest.mark.parametrize(
    "wrong",
    [
        "raises in build",
        "raises later",
        "is not callable",
        "picks raise",
        "picks nothing",
        "picks a stranger",
        "picks what has no hash",
        "takes an argument",
        "always picks the first it ever saw",
    ],
)
async def test_a_strategy_that_goes_wrong_does_no_harm(room: ModuleType, server: ServerProcess, wrong: str) -> None:
    seen: list[events.Event] = []
    advisor = Advisor(wrong)
    async with pool_of(room, server.target, strategy=advisor, listeners=seen.append) as pool:
        await do(pool.wait_ready, min_ready=2)
        await echo(pool)
        # So that at least one more generation is built, and the first member it saw is gone.
        assert await do(pool.resize, 4) == 4
        while advisor.first is None or not advisor.first.retired:
            if pool.status().expected_size == 1:
                break
            await do(pool.scale_down, 1)
        for _ in range(6):
            await echo(pool)
            assert pool.get_channel() is not None
        stats = pool.stats()
        assert (stats.failures, stats.in_flight, stats.maintenance_errors) == (0, 0, 0)
        if advisor.first.retired or wrong not in ("always picks the first it ever saw", "raises later"):
            failed = [event for event in seen if isinstance(event, events.StrategyFailed)]
            assert {event.strategy for event in failed} == {"Advisor"}
            assert all(event.error for event in failed)


# --- bad listeners


@both
async def test_a_listener_that_raises_is_counted_logged_once_and_harmless(
    room: ModuleType, server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[events.Event] = []
    after: list[events.Event] = []

    def bad(event: events.Event) -> None:
        told.append(event)
        raise RuntimeError("listeners go wrong")

    async with pool_of(room, server.target, listeners=[bad, after.append]) as pool:
        await do(pool.wait_ready, min_ready=2)
        for _ in range(5):
            await echo(pool)
        assert await do(pool.scale_up, 1) == 3
        assert pool.stats().listener_errors == len(told)
        assert pool.stats().maintenance_errors == 0
    assert told == after
    assert isinstance(told[-1], events.Closed)
    complaints = [record for record in caplog.records if "listener" in record.getMessage()]
    assert [(record.name, record.levelno) for record in complaints] == [("grpcpool", logging.ERROR)]


@both
async def test_a_listener_that_wants_to_exit_ends_neither_thread_nor_loop(
    room: ModuleType, own_server: ServerProcess
) -> None:
    exits: list[events.Event] = []

    def quitter(event: events.Event) -> None:
        if isinstance(event, events.ConnectionDown) and not exits:
            exits.append(event)
            sys.exit("enough")

    async with pool_of(room, own_server.target) as pool:
        await do(pool.wait_ready, min_ready=2)
        pool.add_listener(quitter)
        own_server.kill()
        await until(lambda: pool.status().current_size == 0)
        own_server.start()
        await do(pool.wait_ready, 20.0, min_ready=2)
        assert pool.stats().listener_errors == len(exits) == 1


@both
async def test_a_listener_that_uses_the_pool_does_not_hang_it(room: ModuleType, server: ServerProcess) -> None:
    async with pool_of(room, server.target) as pool:

        def meddler(event: events.Event) -> None:
            if isinstance(event, events.Picked):
                return
            repr((pool, pool.stats(), pool.status()))
            pool.add_listener(print)
            pool.remove_listener(print)
            if room is grpcpool:
                pool.unary_unary(UNARY)(b"x", timeout=60)
                pool.scale_up(1)

        pool.add_listener(meddler)
        await do(pool.wait_ready, min_ready=2)
        await echo(pool)
        assert pool.status().expected_size == 2
        # The listener's own RPC may still run: members are published before it is told of them.
        await until(lambda: pool.stats().in_flight == 0)
        assert bool(pool.stats().listener_errors) == (room is grpcpool)


@both
async def test_a_listener_may_close_the_pool(room: ModuleType, server: ServerProcess, silent: str) -> None:
    tasks: list[Any] = []
    # One of them never connects: only the end of the pool ends the waiting for both.
    async with pool_of(room, [server.target, silent]) as pool:

        def closer(event: events.Event) -> None:
            if isinstance(event, events.Connected):
                closing = pool.close()
                if closing is not None:
                    tasks.append(asyncio.ensure_future(closing))

        pool.add_listener(closer)
        with pytest.raises(PoolClosed):
            await do(pool.wait_ready, 10.0, min_ready=2)
        await asyncio.gather(*tasks)
        await until(lambda: not pool.stats().members)
        assert pool.stats().listener_errors == 0
