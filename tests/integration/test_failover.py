"""RPCs that fail, and go on on another member: what is moved, what is tried again, and what is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from itertools import pairwise
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool import events
from grpcpool.testing import ECHO, Failure, FaultServer

from .flavours import UNJUDGED, Flavour, Pool
from .waiting import until

pytestmark = pytest.mark.integration

UNARY = f"{ECHO}Unary"
STREAM = f"{ECHO}ServerStream"
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
RETRY = grpcpool.Retry(attempts=3, backoff_min=0.01, backoff_max=0.02)
PREVIOUS = "grpc-previous-rpc-attempts"

MakePool = Callable[..., Pool]


class Two(list[FaultServer]):
    """Two servers, and what a pool over both of them told."""

    told: list[events.Retried]

    @property
    def calls(self) -> int:
        return sum(server.calls for server in self)

    def previous(self) -> list[str | None]:
        seen = sorted((request for server in self for request in server.requests), key=lambda request: request.at)
        return [dict(request.metadata).get(PREVIOUS) for request in seen]


@pytest.fixture
def servers() -> Iterator[Two]:
    with FaultServer() as one, FaultServer() as other:
        yield Two([one, other])


@pytest.fixture
def make_pool(flavour: Flavour, servers: Two) -> Iterator[MakePool]:
    made: list[Pool] = []
    servers.told = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Retried):
            servers.told.append(event)

    def make(**options: Any) -> Pool:
        targets = options.pop("target", [server.target for server in servers])
        size = options.setdefault("size", 2)
        pool = flavour.insecure(targets, listeners=listen, backoff_min=0.1, **options)
        made.append(pool)
        pool.wait_ready(min_ready=size)
        return pool

    yield make
    for pool in made:
        pool.close()


def fails(pool: Pool, code: grpc.StatusCode = UNAVAILABLE, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        pool.unary(**options)
    assert caught.value.code() is code
    return caught.value


# --- what reached no server


def test_a_refused_stream_moves_to_the_other_member(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool()
    servers[0].refuse_streams()
    for _ in range(8):
        assert pool.unary() == b"x"
    assert servers[0].calls == 0
    assert servers[1].calls == 8
    assert {(event.kind, event.attempt, event.code) for event in servers.told} == {("failover", 2, "UNAVAILABLE")}
    assert pool.stats().retries == len(servers.told) > 0
    # Nobody has seen it, so nobody is told of attempts before.
    assert set(servers.previous()) == {None}
    assert pool.stats().in_flight == 0


def test_a_stream_that_came_after_the_goaway_moves(make_pool: MakePool, servers: Two) -> None:
    # Without grpc's own retries, which would do the same as long as it can connect anew.
    pool = make_pool(options=[("grpc.enable_retries", 0)])
    for _ in range(6):
        servers[0].goaway(graceful=False)
        assert pool.unary() == b"x"
        assert pool.unary() == b"x"
    assert {event.kind for event in servers.told} == {"failover"}


def test_a_call_that_a_server_drops_when_it_stops_moves(
    make_pool: MakePool, servers: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long a busy machine takes to bring the server's goodbye.
    monkeypatch.setattr("grpcpool.sync.method.LOOKS", 2000)
    monkeypatch.setattr("grpcpool.aio.movable.LOOKS", 2000)
    stopping: list[threading.Thread] = []

    def drop(request: bytes) -> bytes:
        # It takes its turn after this answer.
        stopping.append(threading.Thread(target=servers[0].stop))
        stopping[-1].start()
        raise Failure(grpc.StatusCode.CANCELLED, "CANCELLED")

    pool = make_pool()
    servers[0].answer(UNARY, drop)
    for _ in range(4):
        assert pool.unary() == b"x"
    for thread in stopping:
        thread.join()
    assert {event.code for event in servers.told} <= {"CANCELLED", "UNAVAILABLE"}
    assert "CANCELLED" in {event.code for event in servers.told}


def test_an_application_may_cancel_a_call_by_itself(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool()
    for server in servers:
        server.fail(grpc.StatusCode.CANCELLED, "CANCELLED")
    fails(pool, grpc.StatusCode.CANCELLED)
    assert servers.told == []


@pytest.mark.parametrize("kind", ["Unary", "ServerStream"])
def test_an_idempotent_call_that_was_dropped_is_tried_again(make_pool: MakePool, servers: Two, kind: str) -> None:
    pool = make_pool(idempotent="*", retry=RETRY)
    servers[0].fail(grpc.StatusCode.CANCELLED, "CANCELLED")
    for _ in range(4):
        assert pool.unary() == b"x" if kind == "Unary" else pool.server_stream() == [b"x"] * 3


def test_a_member_that_cannot_connect_costs_no_call(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool()
    for _ in range(5):
        servers[0].stop()
        for _ in range(6):
            assert pool.unary() == b"x"
        servers[0].start()
        pool.wait_ready(min_ready=2)
    assert pool.stats().in_flight == 0


def test_it_moves_once(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool()
    for server in servers:
        server.refuse_streams()
    fails(pool)
    assert len(servers.told) == 1


def test_it_is_not_moved_if_that_is_switched_off(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(failover=False)
    for server in servers:
        server.refuse_streams()
    fails(pool)
    assert servers.told == []
    assert pool.stats().retries == 0


def test_there_is_nowhere_to_move_in_a_pool_of_one(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(target=servers[0].target, size=1)
    servers[0].refuse_streams()
    fails(pool)
    assert servers.told == []


def test_whoever_asked_for_one_member_is_not_given_another(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(idempotent="*", retry=RETRY)
    for server in servers:
        server.refuse_streams(times=4)
    with pytest.raises(grpc.RpcError):
        pool.unary(on=pool.get_channel())
    assert servers.told == []


def test_metadata_that_can_be_read_only_once_is_not_sent_again(
    flavour: Flavour, make_pool: MakePool, servers: Two
) -> None:
    if flavour.name == "aio":
        pytest.skip("grpc.aio takes no such metadata")
    pool = make_pool()
    for server in servers:
        server.refuse_streams()
    fails(pool, metadata=iter([("a", "b")]))
    assert servers.told == []


def test_what_the_call_knows_is_known_of_the_attempt_that_counts(
    flavour: Flavour, make_pool: MakePool, servers: Two
) -> None:
    if flavour.name == "sync":
        pytest.skip("a blocking call has no object")
    pool = make_pool()
    servers[0].refuse_streams()
    method = pool.method("Unary")
    for _ in range(4):

        async def run() -> tuple[bytes, grpc.StatusCode, bool, bytes]:
            call = method(b"x")
            assert isinstance(call, grpc.aio.UnaryUnaryCall)
            return await call, await call.code(), call.done(), await call

        assert flavour.on_loop(run) == (b"x", grpc.StatusCode.OK, True, b"x")
    assert servers.told


def test_a_call_that_moved_can_be_cancelled(flavour: Flavour, make_pool: MakePool, servers: Two) -> None:
    if flavour.name == "sync":
        pytest.skip("a blocking call cannot be cancelled")
    pool = make_pool()
    servers[0].refuse_streams()
    servers[1].hang()
    call = pool.begin_unary()
    awaited = flavour.in_background(_await, call)
    servers[1].wait_for(lambda: servers[1].in_flight == 1)
    flavour.cancel(call)
    assert flavour.code(call) is grpc.StatusCode.CANCELLED
    with pytest.raises(CancelledError):
        awaited.result(60)
    servers[1].wait_for(lambda: servers[1].in_flight == 0)


def test_a_call_that_moved_outlives_the_member_that_it_was_moved_from(
    flavour: Flavour, make_pool: MakePool, servers: Two
) -> None:
    pool = make_pool(**UNJUDGED)
    servers[0].refuse_streams()
    servers[1].hang()
    calls = [flavour.in_background(pool.unary) if flavour.name == "sync" else pool.begin_unary() for _ in range(2)]
    if flavour.name == "aio":
        calls = [flavour.in_background(_await, call) for call in calls]
    servers[1].wait_for(lambda: servers[1].in_flight == 2)
    # The idle one leaves.
    pool.resize(1)
    until(lambda: not servers[0].connections)
    servers[1].heal()
    assert [call.result(60) for call in calls] == [b"x", b"x"]


async def _await(call: Any) -> Any:
    return await call


# --- what may have reached one


@pytest.mark.parametrize("kind", ["Unary", "ServerStream"])
def test_an_idempotent_call_is_tried_again_elsewhere(make_pool: MakePool, servers: Two, kind: str) -> None:
    pool = make_pool(idempotent=f"{ECHO}*", retry=RETRY)
    servers[0].fail(UNAVAILABLE, "down for a while")
    for _ in range(4):
        if kind == "Unary":
            assert pool.unary(metadata=(("a", "b"),)) == b"x"
        else:
            assert pool.server_stream() == [b"x"] * 3
    assert servers[1].calls == 4
    assert {event.kind for event in servers.told} == {"retry"}
    assert {event.method for event in servers.told} == {f"{ECHO}{kind}"}
    assert set(servers.previous()) == {None, "1"}
    assert pool.stats().in_flight == 0


@pytest.mark.parametrize("kind", ["Unary", "ServerStream"])
def test_so_often_and_no_oftener(make_pool: MakePool, servers: Two, kind: str) -> None:
    pool = make_pool(idempotent="*", retry=RETRY)
    for server in servers:
        server.fail(UNAVAILABLE, "down for a while")
    with pytest.raises(grpc.RpcError) as caught:
        _ = pool.unary() if kind == "Unary" else pool.server_stream()
    assert caught.value.code() is UNAVAILABLE  # type: ignore[attr-defined]
    assert caught.value.details() == "down for a while"  # type: ignore[attr-defined]
    assert servers.calls == 3
    assert servers.previous() == [None, "1", "2"]


@pytest.mark.parametrize("kind", ["Unary", "ServerStream"])
def test_nothing_else_is_sent_twice(make_pool: MakePool, servers: Two, kind: str) -> None:
    pool = make_pool(idempotent="/other.Service/*", retry=RETRY)
    for server in servers:
        server.fail(UNAVAILABLE)
    with pytest.raises(grpc.RpcError):
        _ = pool.unary() if kind == "Unary" else pool.server_stream()
    assert servers.calls == 1


@pytest.mark.parametrize("kind", ["Unary", "ServerStream"])
def test_an_answer_of_the_application_is_an_answer(make_pool: MakePool, servers: Two, kind: str) -> None:
    pool = make_pool(idempotent="*", retry=RETRY)
    for server in servers:
        server.fail(grpc.StatusCode.NOT_FOUND)
    with pytest.raises(grpc.RpcError) as caught:
        _ = pool.unary() if kind == "Unary" else pool.server_stream()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
    assert servers.calls == 1


def test_a_stream_that_has_begun_is_not_begun_again(make_pool: MakePool, servers: Two, flavour: Flavour) -> None:
    def some(request: bytes) -> Iterator[bytes]:
        yield b"1"
        raise Failure(UNAVAILABLE, "half way")

    pool = make_pool(idempotent="*", retry=RETRY)
    for server in servers:
        server.answer(STREAM, some)
    call = pool.begin_stream()
    messages: list[bytes] = []
    collect = (lambda: messages.extend(call)) if flavour.name == "sync" else (lambda: _collect(call, messages))
    with pytest.raises(grpc.RpcError) as caught:
        flavour.on_loop(collect)
    assert messages in ([b"1"], [])
    assert caught.value.details() == "half way"  # type: ignore[attr-defined]
    assert servers.calls == 1


async def _collect(call: Any, messages: list[bytes]) -> None:
    async for message in call:
        messages.append(message)  # noqa: PERF401  # what came before it fails counts


def test_the_server_may_say_not_to_come_back(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(idempotent="*", retry=RETRY)
    for server in servers:
        server.pushback(-1)
    fails(pool)
    assert servers.calls == 1


def test_the_server_may_say_when_to_come_back(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(idempotent="*", retry=RETRY)
    for server in servers:
        server.pushback(300)
    fails(pool)
    at = sorted(request.at for server in servers for request in server.requests)
    assert [later - earlier >= 0.25 for earlier, later in pairwise(at)] == [True, True]


def test_not_beyond_its_deadline(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(idempotent="*", retry=RETRY)
    for server in servers:
        server.pushback(60_000)
    started = time.monotonic()
    fails(pool, timeout=30)
    assert time.monotonic() - started < 30
    assert servers.calls == 1


def test_each_attempt_has_what_is_left_of_the_time(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(idempotent="*", retry=RETRY)
    for server in servers:
        server.fail(UNAVAILABLE, after=0.2)
    fails(pool, timeout=10)
    seen = sorted((request for server in servers for request in server.requests), key=lambda request: request.at)
    lefts = [request.timeout for request in seen]
    assert all(later is not None and later < earlier - 0.15 for earlier, later in pairwise(lefts))  # type: ignore[operator]


def test_there_is_one_budget_for_all(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(idempotent="*", retry=RETRY)
    for server in servers:
        server.fail(UNAVAILABLE)
    started = time.monotonic()
    for _ in range(200):
        fails(pool)
    took = time.monotonic() - started
    again = servers.calls - 200
    assert again == pool.stats().retries
    # A fifth, ten to begin with, one for what runs, and ten a second.
    assert again <= 200 * 0.2 + 12 + 10 * took
    assert pool.stats().retries_refused > 0


def test_with_call_is_tried_again_as_well(flavour: Flavour, make_pool: MakePool, servers: Two) -> None:
    if flavour.name == "aio":
        pytest.skip("grpc.aio has none")
    pool = make_pool(idempotent="*", retry=RETRY)
    servers[0].fail(UNAVAILABLE)
    for _ in range(4):
        response, call = pool.method("Unary").with_call(b"x")
        assert (response, call.code()) == (b"x", grpc.StatusCode.OK)


def test_a_full_pool_moves_what_fails_too(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(idempotent="*", retry=RETRY, max_concurrent_streams=1)
    servers[0].fail(UNAVAILABLE)
    for _ in range(6):
        assert pool.unary() == b"x"
    assert pool.stats().in_flight == 0


# --- what takes too long


def test_a_second_copy_is_sent_and_the_first_answer_counts(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(idempotent="*", hedge_after=0.05)
    servers[0].hang()
    for _ in range(4):
        assert pool.unary(timeout=60) == b"x"
    assert {(event.kind, event.code) for event in servers.told} == {("hedge", None)}
    stats = pool.stats()
    assert (stats.hedges, stats.retries) == (len(servers.told), 0)
    # The copy that lost is cancelled.
    servers[0].wait_for(lambda: servers[0].in_flight == 0)
    assert servers[1].calls == 4
    assert "1" in servers.previous()


def test_a_full_pool_sends_no_second_copies(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(idempotent="*", hedge_after=2.0, max_concurrent_streams=1)
    for server in servers:
        server.slow(4.0)
    calls = [pool.flavour.in_background(pool.unary) for _ in range(2)] if pool.flavour.name == "sync" else None
    if calls is None:
        calls = [pool.flavour.in_background(_await, pool.begin_unary()) for _ in range(2)]
    assert [call.result(60) for call in calls] == [b"x"] * 2
    assert servers.told == []


def test_a_copy_that_fails_is_followed_by_the_other_at_once(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(idempotent="*", hedge_after=30.0)
    servers[0].fail(UNAVAILABLE)
    for _ in range(4):
        assert pool.unary(timeout=60) == b"x"
    assert {(event.kind, event.code) for event in servers.told} == {("hedge", "UNAVAILABLE")}


def test_if_both_copies_fail_so_does_the_call(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(idempotent="*", hedge_after=30.0)
    for server in servers:
        server.fail(UNAVAILABLE, "gone")
    assert fails(pool).details() == "gone"  # type: ignore[attr-defined]
    assert servers.calls == 2


def test_an_answer_of_the_application_ends_both_copies(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(idempotent="*", hedge_after=0.05)
    for server in servers:
        server.fail(grpc.StatusCode.NOT_FOUND, after=4.0)
    fails(pool, grpc.StatusCode.NOT_FOUND)
    assert servers.calls == 2
    for server in servers:
        server.wait_for(lambda: servers[0].in_flight == servers[1].in_flight == 0)


def test_hedging_after_the_usual_time_waits_until_it_is_known(make_pool: MakePool, servers: Two) -> None:
    pool = make_pool(idempotent="*", hedge_after="p95")
    # So many are slow, and by so much, that the usual time is longer than most moments for which a machine stands
    # still: what such a moment delays is hedged too, and one in twenty may be at the most.
    for server in servers:
        server.slow(0.5, times=3)
    for _ in range(31):
        assert pool.unary() == b"x"
    assert servers.told == []
    for _ in range(49):
        assert pool.unary() == b"x"
    before = len(servers.told)
    servers[0].hang()
    for _ in range(2):
        assert pool.unary(timeout=60) == b"x"
    assert len(servers.told) > before


def test_a_hedged_call_can_be_cancelled(flavour: Flavour, make_pool: MakePool, servers: Two) -> None:
    if flavour.name == "sync":
        pytest.skip("a blocking call cannot be cancelled")
    pool = make_pool(idempotent="*", hedge_after=0.01)
    for server in servers:
        server.hang()
    call = pool.begin_unary()
    servers[0].wait_for(lambda: servers[0].in_flight == servers[1].in_flight == 1)
    flavour.cancel(call)
    for server in servers:
        server.wait_for(lambda: servers[0].in_flight == servers[1].in_flight == 0)
    assert pool.stats().in_flight == 0


def test_hedged_ways_to_call(flavour: Flavour, make_pool: MakePool, servers: Two) -> None:
    if flavour.name == "aio":
        pytest.skip("grpc.aio has one way")
    pool = make_pool(idempotent="*", hedge_after=0.05)
    servers[0].hang(times=1)
    method = pool.method("Unary")
    responses = [method.with_call(b"x", timeout=60) for _ in range(2)]
    assert [(response, call.code()) for response, call in responses] == [(b"x", grpc.StatusCode.OK)] * 2
    assert method.future(b"x").result(60) == b"x"


# --- with interceptors


class Through(grpc.UnaryUnaryClientInterceptor):
    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(client_call_details, request)


class AioThrough(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details, request)


@pytest.mark.parametrize("retried", [False, True], ids=["moved", "retried"])
def test_interceptors_do_not_stand_in_the_way(
    flavour: Flavour, make_pool: MakePool, servers: Two, retried: bool
) -> None:
    through = Through() if flavour.name == "sync" else AioThrough()
    options: dict[str, Any] = {"idempotent": "*", "retry": RETRY} if retried else {}
    pool = make_pool(interceptors=[through], **options)
    if retried:
        servers[0].fail(UNAVAILABLE)
    else:
        servers[0].refuse_streams()
    for _ in range(6):
        assert pool.unary() == b"x"
    assert {event.kind for event in servers.told} == {"retry" if retried else "failover"}
