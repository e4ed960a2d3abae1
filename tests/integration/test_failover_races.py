"""RPCs that are sent again, when something else happens to them, or to the pool, at the same time."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import grpc
import grpc.experimental
import pytest

import grpcpool
from grpcpool.testing import ECHO, FaultServer

from .flavours import Aio, Flavour, Pool, Sync
from .waiting import until

pytestmark = pytest.mark.integration

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
STREAM = f"{ECHO}ServerStream"
RETRY = grpcpool.Retry(attempts=3, backoff_min=0.01, backoff_max=0.02)
RETRIED: dict[str, Any] = {"idempotent": "*", "retry": RETRY}
HEDGED: dict[str, Any] = {"idempotent": "*", "hedge_after": 10.0}

MakePool = Callable[..., Pool]
Two = tuple[FaultServer, FaultServer]


@pytest.fixture
def servers() -> Iterator[Two]:
    with FaultServer() as one, FaultServer() as other:
        yield one, other


@pytest.fixture
def make_pool(flavour: Flavour, servers: Two) -> Iterator[MakePool]:
    made: list[Pool] = []

    def make(**options: Any) -> Pool:
        pool = flavour.insecure([server.target for server in servers], size=2, **options)
        made.append(pool)
        pool.wait_ready(min_ready=2)
        return pool

    yield make
    for pool in made:
        pool.close()


@pytest.fixture
def sync_only(flavour: Flavour) -> None:
    if not isinstance(flavour, Sync):
        pytest.skip("of blocking pools")


@pytest.fixture
def aio_only(flavour: Flavour) -> None:
    if not isinstance(flavour, Aio):
        pytest.skip("of aio pools")


@pytest.mark.parametrize("options", [{}, RETRIED, HEDGED], ids=["plain", "retried", "hedged"])
@pytest.mark.usefixtures("aio_only")
def test_what_grpc_will_not_send_raises_at_once(
    flavour: Flavour, make_pool: MakePool, servers: Two, options: dict[str, Any]
) -> None:
    pool = make_pool(**options)
    method = pool.method("Unary")

    async def run() -> None:
        with pytest.raises(TypeError):
            await asyncio.wait_for(method("not bytes"), 5)

    flavour.on_loop(run)
    flavour.collect()
    assert pool.stats().in_flight == 0


class Through(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details, request)


@pytest.mark.parametrize("interceptors", [[], [Through()]], ids=["plain", "intercepted"])
@pytest.mark.usefixtures("aio_only")
def test_a_stream_that_fails_for_good_says_so(
    flavour: Flavour, make_pool: MakePool, servers: Two, interceptors: list[Any]
) -> None:
    pool = make_pool(interceptors=interceptors, **RETRIED)
    for server in servers:
        server.fail(grpc.StatusCode.NOT_FOUND)
    method = pool.method("ServerStream")

    async def run() -> str:
        call = method(b"x")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            assert not [message async for message in call]
        assert caught.value.code() is await call.code() is grpc.StatusCode.NOT_FOUND
        said: str = await call.debug_error_string()
        return said

    assert flavour.on_loop(run)


@pytest.mark.usefixtures("aio_only")
@pytest.mark.parametrize("options", [{}, RETRIED, HEDGED], ids=["plain", "retried", "hedged"])
def test_calls_that_start_together_see_each_other(flavour: Flavour, servers: Two, options: dict[str, Any]) -> None:
    target = servers[0].target
    servers[0].hang()
    with flavour.insecure(target, size=4, strategy="consistent_hash", unresponsive_after=None, **options) as pool:
        pool.wait_ready(min_ready=4)
        method = pool.method("Unary")

        async def together() -> list[Any]:
            with grpcpool.affinity("one for all"):
                return [method(b"x", timeout=60) for _ in range(40)]

        calls = flavour.call(together)
        until(lambda: pool.stats().in_flight == 40)
        # The strategy's own bound: a quarter more than the mean.
        assert max(member.in_flight for member in pool.stats().members) <= math.ceil(1.25 * 40 / 4)
        for call in calls:
            flavour.cancel(call)


@pytest.mark.parametrize("options", [{}, RETRIED, HEDGED], ids=["plain", "retried", "hedged"])
def test_keys_in_headers_and_channels_of_members_work_as_ever(
    flavour: Flavour, servers: Two, options: dict[str, Any]
) -> None:
    target = [server.target for server in servers]
    with flavour.insecure(target, size=2, affinity_header="key", strategy="consistent_hash", **options) as pool:
        pool.wait_ready(min_ready=2)
        for _ in range(4):
            assert pool.unary(metadata=(("key", "mine"),)) == b"x"
        assert sorted(member.calls for member in pool.stats().members) == [0, 4]
        channel = pool.get_channel()
        for _ in range(4):
            assert pool.unary(on=channel) == b"x"
        assert max(member.calls for member in pool.stats().members) in (4, 8)


@pytest.mark.usefixtures("sync_only")
def test_a_retried_streams_callbacks_are_called_when_it_is_over(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(**RETRIED)
    servers[0].fail(UNAVAILABLE, after=0.1)
    for _ in range(2):
        told: list[Any] = []
        call = pool.raw.unary_stream(f"{ECHO}ServerStream")(b"x", timeout=60)
        call.add_done_callback(lambda call, told=told: told.append((call, call.code())))
        assert list(call) == [b"x"] * 3
        until(lambda told=told: told)
        assert told == [(call, grpc.StatusCode.OK)]
        # And at once when it is over already.
        call.add_done_callback(told.append)
        assert told[1:] == [call]


@pytest.mark.usefixtures("aio_only")
def test_a_call_that_has_told_how_it_ended_stays_so(flavour: Flavour, make_pool: MakePool, servers: Two) -> None:
    async def ask(call: Any) -> tuple[grpc.StatusCode, grpc.StatusCode | None]:
        told: grpc.StatusCode = await call.code()
        try:
            assert await call == b"x"
        except grpc.aio.AioRpcError as error:
            return told, error.code()
        return told, grpc.StatusCode.OK

    pool = make_pool()
    method = pool.method("Unary")
    servers[0].refuse_streams()
    told = [flavour.call(lambda: ask(method(b"x"))) for _ in range(4)]
    assert sorted(told, key=str) == [(grpc.StatusCode.OK,) * 2] * 2 + [(UNAVAILABLE,) * 2] * 2
    assert pool.stats().retries == 0


class Audit(grpc.UnaryUnaryClientInterceptor):
    """Reports to another service what was answered, and lets its error pass."""

    report: Any

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = continuation(client_call_details, request)
        assert call.result() == b"x"
        self.report(b"done", timeout=60)
        return call


class AioAudit(grpc.aio.UnaryUnaryClientInterceptor):
    report: Any

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(client_call_details, request)
        assert await call == b"x"
        await self.report(b"done", timeout=60)
        return call


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "half full"])
def test_the_error_of_an_interceptors_own_rpc_has_none_sent_again_that_was_answered(
    flavour: Flavour, make_pool: MakePool, servers: Two, busy: bool
) -> None:
    audit: Any = Audit() if isinstance(flavour, Sync) else AioAudit()
    with FaultServer() as log, flavour.insecure(log.target, size=1, failover=False) as other:
        log.refuse_streams()
        audit.report = other.raw.unary_unary("/log/Report")
        # From half of the limit on, RPCs of an aio pool go another way.
        pool = make_pool(interceptors=[audit], **({"max_concurrent_streams": 2} if busy else {}))
        streams = [pool.begin_stream(metadata=(("count", "1000"), ("gap", "0.1"))) for _ in range(2 * busy)]
        with pytest.raises(grpc.RpcError):
            pool.unary(timeout=60)
        assert sum(server.counts.get(f"{ECHO}Unary", 0) for server in servers) == 1
        for stream in streams:
            flavour.cancel(stream)


@pytest.mark.parametrize("kind", ["Unary", "ServerStream"])
def test_an_rpc_that_rests_while_the_pool_closes_ends_as_it_failed(
    flavour: Flavour, make_pool: MakePool, servers: Two, kind: str
) -> None:
    pool = make_pool(**RETRIED)
    for server in servers:
        server.hang(methods=f"{ECHO}Hold")
        server.pushback(500, methods=f"{ECHO}{kind}")
    # It keeps the pool from being closed altogether.
    held = flavour.in_background(flavour.call(pool.raw.unary_unary, f"{ECHO}Hold"), b"x")
    call = flavour.unary if kind == "Unary" else flavour.all_of
    with ThreadPoolExecutor() as threads:
        failing = threads.submit(call, pool.method(kind), b"x")
        until(lambda: pool.stats().failures >= 1)
        closing = threads.submit(pool.close, 10.0)
        with pytest.raises(grpc.RpcError) as caught:
            failing.result(60)
        assert caught.value.code() is UNAVAILABLE
        for server in servers:
            server.heal()
        assert held.result(60) == b"x"
        closing.result(60)


@pytest.mark.parametrize("failures", [0, 1], ids=["begun once", "begun anew"])
@pytest.mark.usefixtures("sync_only")
def test_a_stream_that_is_dropped_half_read_ends_without_a_garbage_collection(
    make_pool: MakePool, servers: Two, failures: int
) -> None:
    pool = make_pool(**RETRIED)
    for server in servers:
        server.answer(STREAM, lambda _: (b"x" * 100_000 for _ in range(1000)))
        if failures:
            server.fail(UNAVAILABLE, times=1)
    gc.collect()
    gc.disable()
    try:
        call = pool.begin_stream()
        assert len(next(call)) == 100_000
        assert pool.stats().in_flight == 1
        del call
        until(lambda: pool.stats().in_flight == 0)
    finally:
        gc.enable()


@pytest.mark.usefixtures("sync_only")
def test_the_end_of_a_stream_is_told_if_it_is_dropped(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(**RETRIED)
    for server in servers:
        server.hang()
    told: SimpleQueue[str] = SimpleQueue()
    call = pool.begin_stream()
    assert call.add_callback(lambda: told.put("dropped"))
    del call
    assert told.get(timeout=60) == "dropped"


@pytest.mark.usefixtures("sync_only")
def test_the_end_of_a_stream_is_told_if_there_is_no_room_for_another_attempt(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(max_concurrent_streams=1, acquire_timeout=0.2, **RETRIED)
    told: SimpleQueue[str] = SimpleQueue()
    for server in servers:
        server.pushback(2000, methods=STREAM)
        server.hang(methods=f"{ECHO}Unary")
    call = pool.begin_stream()
    assert call.add_callback(lambda: told.put("no room"))
    until(lambda: pool.stats().in_flight == 0)
    with ThreadPoolExecutor() as threads:
        held = [threads.submit(pool.unary) for _ in range(2)]
        until(lambda: pool.stats().in_flight == 2)
        with pytest.raises(grpcpool.PoolTimeout):
            next(call)
        assert told.get(timeout=60) == "no room"
        for server in servers:
            server.heal()
        assert [each.result(60) for each in held] == [b"x"] * 2


def begin(flavour: Flavour, method: Any, request: bytes = b"x", **options: Any) -> Any:
    """Start a unary RPC in the background, and return its future."""
    if isinstance(flavour, Sync):
        return method.future(request, **options)

    async def run() -> Any:
        return await method(request, **options)

    return flavour.in_background(run)


def test_no_second_copy_is_sent_to_where_the_first_one_is(flavour: Flavour, make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(idempotent=f"{ECHO}Unary", hedge_after=0.05, max_concurrent_streams=4)
    for server in servers:
        server.slow(0.4, methods=f"{ECHO}Unary")
        server.hang(methods=f"{ECHO}Hold")
    one = pool.get_channel()
    hold = flavour.call(one.unary_unary, f"{ECHO}Hold")
    held = [begin(flavour, hold) for _ in range(4)]
    until(lambda: 4 in (servers[0].in_flight, servers[1].in_flight))
    assert pool.unary() == b"x"
    assert pool.stats().hedges == 0
    assert servers[0].calls + servers[1].calls == 5
    for server in servers:
        server.heal()
    assert [each.result(60) for each in held] == [b"x"] * 4


def test_a_second_copy_that_found_no_room_is_sent_when_the_first_fails(
    flavour: Flavour, make_pool: MakePool, servers: Two
) -> None:
    pool = make_pool(idempotent="*", hedge_after=0.1, max_concurrent_streams=1, unresponsive_after=None)
    servers[0].hang()
    servers[1].slow(1.0)
    method = pool.method("Unary")
    calls = [flavour.in_background(method, b"x") for _ in range(2)]
    # When it was time for second copies, both members were full.
    until(lambda: any(call.done() for call in calls))
    servers[0].reset()
    assert [call.result(60) for call in calls] == [b"x"] * 2


def test_a_second_copy_that_finds_no_room_leaves_the_first_alone(
    flavour: Flavour, make_pool: MakePool, servers: Two
) -> None:
    pool = make_pool(idempotent="*", hedge_after=0.1, max_concurrent_streams=2, acquire_timeout=0.1)
    for server in servers:
        server.slow(0.8)
    barrier = threading.Barrier(3)
    firsts = [b"x"] * 3

    def serialize(request: bytes) -> bytes:
        # All three have their places before any of them may be sent twice.
        if isinstance(flavour, Sync) and firsts:
            firsts.pop()
            barrier.wait(60)
        return request

    method = flavour.call(pool.raw.unary_unary, f"{ECHO}Unary", request_serializer=serialize)

    def call() -> bytes:
        answer: bytes = method(b"x")
        return answer

    async def calls() -> list[bytes]:
        return list(await asyncio.gather(*(method(b"x") for _ in range(3))))

    # Two of them are on one member, and the other one has room for one.
    if isinstance(flavour, Sync):
        with ThreadPoolExecutor() as threads:
            assert [each.result(60) for each in [threads.submit(call) for _ in range(3)]] == [b"x"] * 3
    else:
        assert flavour.on_loop(calls) == [b"x"] * 3
    until(lambda: pool.stats().in_flight == 0)


@pytest.mark.usefixtures("aio_only")
def test_a_call_that_is_cancelled_when_it_has_failed_is_not_moved(
    flavour: Flavour, make_pool: MakePool, servers: Two
) -> None:
    pool = make_pool()
    # As a server does that stops, so that it is waited for the end of its connection.
    for server in servers:
        server.fail(grpc.StatusCode.CANCELLED, "CANCELLED")
    method = pool.method("Unary")

    async def run() -> None:
        call = method(b"x")
        awaited = asyncio.ensure_future(call)
        await call.code()
        call.cancel()
        next(server for server in servers if server.calls).kill()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(awaited, 5)
        assert caught.value.code() is grpc.StatusCode.CANCELLED

    flavour.on_loop(run)
    assert servers[0].calls + servers[1].calls == 1


@pytest.mark.usefixtures("aio_only")
def test_a_call_that_tells_how_it_ended_is_not_moved_after_that(
    flavour: Flavour, make_pool: MakePool, servers: Two
) -> None:
    pool = make_pool()
    for server in servers:
        server.refuse_streams(times=2)
    method = pool.method("Unary")

    async def run() -> tuple[list[bool], grpc.StatusCode]:
        told: list[bool] = []
        call = method(b"x")
        call.add_done_callback(lambda call: told.append(call.done()))
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        return told, await call.code()

    assert flavour.on_loop(run) == ([True], UNAVAILABLE)
    assert pool.stats().retries == 0


@pytest.mark.usefixtures("sync_only")
def test_the_time_of_a_refused_call_counts_once(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(max_concurrent_streams=10)
    servers[0].refuse_streams()
    seen: set[bytes] = set()

    def serialize(request: bytes) -> bytes:
        # The first attempt takes its time.
        if request not in seen:
            seen.add(request)
            time.sleep(1)
        return request

    method = pool.raw.unary_unary(f"{ECHO}Unary", request_serializer=serialize)
    requests = [b"%d" % number for number in range(8)]
    for request in requests:
        started = time.monotonic()
        # Of less than ten seconds servers are told the milliseconds.
        assert method(request, timeout=9.9) == request
        if pool.stats().retries:
            break
    assert pool.stats().retries == 1
    # Not a ping, which a server that stood still may have got since.
    moved = [request for request in servers[1].requests if request.method == f"{ECHO}Unary"][-1]
    # It may have been on its way for a while.
    assert 9.9 - (moved.at - started) - 0.1 <= moved.timeout <= 9.9 - 1 + 0.1


@pytest.mark.parametrize("options", [{}, RETRIED, {"max_concurrent_streams": 10}], ids=["plain", "retried", "capped"])
@pytest.mark.parametrize("refused", [False, True], ids=["failed", "refused"])
@pytest.mark.usefixtures("sync_only")
def test_what_a_call_raises_is_gone_without_a_garbage_collection(
    make_pool: MakePool, servers: Two, options: dict[str, Any], refused: bool
) -> None:
    pool = make_pool(**options)
    for server in servers:
        if refused:
            server.refuse_streams()
        else:
            server.fail(grpc.StatusCode.NOT_FOUND)
    method = pool.method("Unary")

    def fail() -> weakref.ref[BaseException]:
        try:
            method(b"x", timeout=60)
        except grpc.RpcError as error:
            return weakref.ref(error)
        raise AssertionError("it did not fail")

    gc.collect()
    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


@pytest.mark.usefixtures("sync_only")
@pytest.mark.parametrize("how", ["__call__", "with_call"])
def test_hedged_calls_can_be_made_in_done_callbacks(make_pool: MakePool, servers: Two, how: str) -> None:
    pool = make_pool(**HEDGED)
    method = pool.raw.unary_unary(f"{ECHO}Unary")
    outcomes: SimpleQueue[Any] = SimpleQueue()

    def ask_again(_: grpc.Future) -> None:
        try:
            outcomes.put([getattr(method, how)(b"y", timeout=10) for _ in range(2)])
        except BaseException as error:
            outcomes.put(error)

    # Two, for two members: one of the calls is told of in the thread that waits for it.
    method.future(b"x").add_done_callback(ask_again)
    got = outcomes.get(timeout=60)
    assert [each if how == "__call__" else each[0] for each in got] == [b"y"] * 2
    # Elsewhere hedging goes on.
    servers[0].fail(UNAVAILABLE)
    assert [pool.unary() for _ in range(2)] == [b"x"] * 2


@pytest.mark.usefixtures("sync_only")
def test_a_thread_that_reads_streams_by_itself_has_its_calls_hedged(make_pool: MakePool, servers: Two) -> None:
    single = (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)
    pool = make_pool(options=[single], **HEDGED)
    assert [pool.server_stream() for _ in range(2)] == [[b"x"] * 3] * 2
    servers[0].fail(UNAVAILABLE)
    assert [pool.unary() for _ in range(2)] == [b"x"] * 2
