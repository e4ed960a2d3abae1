"""Servers that fail, hang, fall silent and say that they do not serve; from either room."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import grpcpool
from grpcpool import events
from grpcpool.core.lookout import Lookout
from grpcpool.serving import health_of
from grpcpool.testing import ECHO, FaultServer

from .flavours import UNJUDGED, Flavour, Pool
from .waiting import LIMIT, until

pytestmark = pytest.mark.integration

UNARY = f"{ECHO}Unary"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Heard:
    """A listener."""

    def __init__(self) -> None:
        self.all: list[events.Event] = []

    def __call__(self, event: events.Event) -> None:
        self.all.append(event)

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.all if isinstance(event, kind)]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def servers() -> Iterator[list[FaultServer]]:
    three = [FaultServer().start() for _ in range(3)]
    yield three
    for server in three:
        server.close()


@pytest.fixture
def make_pool(flavour: Flavour, heard: Heard) -> Iterator[Callable[..., Pool]]:
    made: list[Pool] = []

    def make(targets: list[str], **options: Any) -> Pool:
        pool = flavour.insecure(targets, **{"size": len(targets), "listeners": heard, **options})
        pool.wait_ready(timeout=20, min_ready=len(targets))
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.close()


def targets(servers: list[FaultServer]) -> list[str]:
    return [server.target for server in servers]


def state_of(pool: Pool, target: str) -> str:
    # A member that is to replace another may be there as well.
    state, *_ = [member.state for member in pool.stats().members if member.endpoint == target]
    return state


def is_of(event: Any, server: FaultServer) -> bool:
    return bool(event.endpoint == server.target)


def calls_to(pool: Pool, target: str) -> int:
    return sum(member.calls for member in pool.stats().members if member.endpoint == target)


def codes(pool: Pool, calls: int, timeout: float = 60.0) -> list[grpc.StatusCode]:
    """Make so many calls, one after the other, and return how they ended."""
    found = []
    for _ in range(calls):
        try:
            pool.unary(timeout=timeout)
            found.append(grpc.StatusCode.OK)
        except grpc.RpcError as error:
            found.append(error.code())
    return found


# --- failures


def test_a_server_that_fails_at_once_costs_five_calls_and_then_one_each_time(
    servers: list[FaultServer], make_pool: Callable[..., Pool], heard: Heard
) -> None:
    bad = servers[0]
    # The rate of what went well before and then failed may be too low a call or two earlier.
    only_rows = {"min_success_rate": None, "unresponsive_after": None}
    pool = make_pool(targets(servers), ejection_min=0.5, ejection_max=1.0, slow_start=0.1, **only_rows)
    assert set(codes(pool, 9)) == {grpc.StatusCode.OK}
    bad.fail(grpc.StatusCode.UNAVAILABLE, methods=UNARY)
    found = codes(pool, 30)
    until(lambda: state_of(pool, bad.target) != "ready")
    # How many slip through before the room has heard of it is a matter of luck.
    assert found.count(grpc.StatusCode.UNAVAILABLE) >= 5
    failed = len(found) - found.count(grpc.StatusCode.OK)
    until(lambda: codes(pool, 1) and len(heard.of(events.Ejected)) >= 3)
    assert pool.stats().failures - failed <= len(heard.of(events.Probing)) + 5
    assert heard.of(events.Ejected)[0].reason.endswith("RPCs in a row failed")
    assert pool.status().status == "degraded"
    bad.heal()
    until(lambda: codes(pool, 1) and heard.of(events.Readmitted))
    before = calls_to(pool, bad.target)
    until(lambda: codes(pool, 3) and calls_to(pool, bad.target) > before + 5)
    assert pool.stats().ejections == len(heard.of(events.Ejected))


def test_answers_that_refuse_are_no_failures(
    servers: list[FaultServer], make_pool: Callable[..., Pool], heard: Heard
) -> None:
    pool = make_pool(targets(servers), unresponsive_after=None)
    servers[0].fail(grpc.StatusCode.INVALID_ARGUMENT, methods=UNARY)
    found = codes(pool, 60)
    assert found.count(grpc.StatusCode.INVALID_ARGUMENT) == 20
    assert heard.of(events.Ejected) == []


def test_when_all_servers_fail_alike_nobody_is_ejected(
    servers: list[FaultServer], make_pool: Callable[..., Pool], heard: Heard
) -> None:
    pool = make_pool(targets(servers))
    for server in servers:
        server.fail(grpc.StatusCode.INTERNAL, methods=UNARY)
    until(lambda: codes(pool, 3) and heard.of(events.PoolFailing))
    until(lambda: {member.state for member in pool.stats().members} == {"ready"})
    for server in servers:
        server.heal()
    until(lambda: codes(pool, 3) and heard.of(events.PoolRecovered))
    assert set(codes(pool, 9)) == {grpc.StatusCode.OK}


def test_with_everything_switched_off_nobody_is_ever_ejected(
    servers: list[FaultServer], make_pool: Callable[..., Pool], heard: Heard
) -> None:
    pool = make_pool(targets(servers), outlier_detection=False, slow_start=None, **UNJUDGED)
    servers[0].fail(grpc.StatusCode.UNAVAILABLE, methods=UNARY)
    assert codes(pool, 90).count(grpc.StatusCode.UNAVAILABLE) == 30
    assert heard.of(events.Ejected) == []


# --- silence


class Load:
    """Callers that go on all the while, each with a deadline, or none."""

    def __init__(self, pool: Pool, callers: int, timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(callers)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(grpc.RpcError):
                self._pool.unary(timeout=self._timeout)
            time.sleep(0.01)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def load() -> Iterator[Callable[..., Load]]:
    made: list[Load] = []

    def make(pool: Pool, callers: int = 6, timeout: float | None = 1.0) -> Load:
        made.append(Load(pool, callers, timeout))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.mark.parametrize("timeout", [0.5, 10.0], ids=["with deadlines", "without"])
def test_a_server_that_falls_silent_gets_nothing_until_it_answers_a_ping(
    servers: list[FaultServer],
    make_pool: Callable[..., Pool],
    load: Callable[..., Load],
    heard: Heard,
    timeout: float,
) -> None:
    bad = servers[0]
    # So long that it is back before only because it answers pings. Deadlines that pass on all members, because the
    # machine stands still, are no matter here.
    by_silence = {**UNJUDGED, "unresponsive_after": 0.5}
    pool = make_pool(targets(servers), ejection_min=200.0, slow_start=0.5, **by_silence)
    load(pool, timeout=timeout)
    until(lambda: calls_to(pool, bad.target) > 10)
    bad.black_hole()
    # Listeners are told when it has left the picks. (So may others be for a while, where they stand still.)
    until(lambda: bad.target in {event.endpoint for event in heard.of(events.Ejected)})
    told = len(heard.all)
    before, others, since = calls_to(pool, bad.target), pool.stats().calls, time.monotonic()
    # Those who call without a deadline wait for it, all of them.
    load(pool, timeout=timeout)
    until(lambda: pool.stats().calls > others + 200 and time.monotonic() - since > 2.5)
    # At most what each of the first callers was about to begin.
    assert calls_to(pool, bad.target) - before <= 6
    assert [event for event in heard.all[told:] if isinstance(event, events.Probing) and is_of(event, bad)] == []
    bad.heal()
    until(lambda: state_of(pool, bad.target) == "ready")
    # Unless a new connection, which is tried after five seconds, came first: on a very slow machine.
    assert {event.reason for event in heard.of(events.Probing) if is_of(event, bad)} <= {"it answers again"}
    until(lambda: calls_to(pool, bad.target) > 50)


def test_a_server_that_is_slow_and_answers_pings_stays(
    flavour: Flavour, servers: list[FaultServer], make_pool: Callable[..., Pool], heard: Heard
) -> None:
    slow = servers[0]
    # Time enough to answer a ping, on the slowest machine.
    pool = make_pool(targets(servers), unresponsive_after=2.5)
    slow.slow(8.0, methods=UNARY)
    calls: list[Any] = []

    def pings() -> int:
        # Others must be seen to answer, and those who wait for the slow one make no more calls.
        calls.append(flavour.in_background(method, b"x", timeout=LIMIT))
        time.sleep(0.1)
        return slow.counts.get("/grpc.health.v1.Health/Check", 0)

    method = pool.method("Unary")
    until(lambda: pings() >= 1)
    slow.heal()
    assert [call.result(LIMIT) for call in calls] == [b"x"] * len(calls)
    assert heard.of(events.Ejected) == []
    assert state_of(pool, slow.target) == "ready"


# --- what servers say of themselves


class HealthServer:
    """A real server with grpc's own health service, or with as much of it as is asked for."""

    def __init__(self, *methods: str) -> None:
        self.servicer = health.HealthServicer()
        self.servicer.set("echo", SERVING)
        self.server = grpc.server(futures.ThreadPoolExecutor(8))
        echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ECHO.strip("/"), {"Unary": echo}),))
        if "Watch" in methods:
            health_pb2_grpc.add_HealthServicer_to_server(self.servicer, self.server)
        elif "Check" in methods:
            checks = _ChecksOnly()
            checks.servicer = self.servicer
            health_pb2_grpc.add_HealthServicer_to_server(checks, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.target = f"127.0.0.1:{self.port}"
        self.server.start()

    def say(self, status: int) -> None:
        self.servicer.set("echo", status)

    def stop(self) -> None:
        self.server.stop(None).wait()


class _ChecksOnly(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    servicer: health.HealthServicer

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.servicer.Check(request, context)


@pytest.fixture
def health_server() -> Iterator[Callable[..., HealthServer]]:
    made: list[HealthServer] = []

    def make(*methods: str) -> HealthServer:
        made.append(HealthServer(*methods))
        return made[-1]

    yield make
    for server in made:
        server.stop()


def test_a_server_that_says_it_does_not_serve_is_not_picked_until_it_does(
    health_server: Callable[..., HealthServer], make_pool: Callable[..., Pool], heard: Heard
) -> None:
    first, second = health_server("Watch"), health_server("Watch")
    pool = make_pool([first.target, second.target], health_check="echo", unresponsive_after=None)
    first.say(NOT_SERVING)
    # By then it is out.
    until(lambda: heard.of(events.NotServing))
    assert state_of(pool, first.target) == "not serving"
    before = calls_to(pool, first.target)
    assert set(codes(pool, 20)) == {grpc.StatusCode.OK}
    assert calls_to(pool, first.target) == before
    assert [(event.endpoint, event.reason) for event in heard.of(events.NotServing)] == [(first.target, "NOT_SERVING")]
    first.say(SERVING)
    until(lambda: state_of(pool, first.target) == "ready")
    codes(pool, 4)
    assert calls_to(pool, first.target) > before
    assert len(heard.of(events.Serving)) == 1
    assert heard.of(events.Ejected) == []


def test_if_nobody_says_that_it_serves_all_are_used(
    health_server: Callable[..., HealthServer], make_pool: Callable[..., Pool], heard: Heard
) -> None:
    only = health_server("Watch")
    pool = make_pool([only.target], health_check="echo")
    only.say(NOT_SERVING)
    until(lambda: heard.of(events.Panicked))
    assert state_of(pool, only.target) == "not serving"
    assert codes(pool, 1) == [grpc.StatusCode.OK]


def test_a_service_that_the_server_does_not_know_does_not_serve(
    health_server: Callable[..., HealthServer], make_pool: Callable[..., Pool], heard: Heard
) -> None:
    first, second = health_server("Watch"), health_server("Check")
    make_pool([first.target, second.target], health_check="something else")
    until(lambda: len(heard.of(events.NotServing)) == 2)
    assert {event.reason for event in heard.of(events.NotServing)} == {"SERVICE_UNKNOWN"}


def test_the_server_as_a_whole_is_asked_about_by_no_name(
    health_server: Callable[..., HealthServer], make_pool: Callable[..., Pool]
) -> None:
    first, second = health_server("Watch"), health_server("Watch")
    pool = make_pool([first.target, second.target], health_check="")
    first.servicer.set("", NOT_SERVING)
    until(lambda: state_of(pool, first.target) == "not serving")


def test_where_watch_is_not_known_check_is_asked(
    health_server: Callable[..., HealthServer],
    make_pool: Callable[..., Pool],
    flavour: Flavour,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"grpcpool.{flavour.name}.health.CHECK_EVERY", 0.5)
    first, second = health_server("Check"), health_server("Check")
    pool = make_pool([first.target, second.target], health_check="echo")
    first.say(NOT_SERVING)
    until(lambda: state_of(pool, first.target) == "not serving")
    first.say(SERVING)
    until(lambda: state_of(pool, first.target) == "ready")


def test_servers_that_do_not_know_of_health_are_healthy(
    health_server: Callable[..., HealthServer], make_pool: Callable[..., Pool], heard: Heard
) -> None:
    first, second = health_server(), health_server()
    pool = make_pool([first.target, second.target], health_check="echo")
    assert set(codes(pool, 10)) == {grpc.StatusCode.OK}
    assert {member.state for member in pool.stats().members} == {"ready"}
    assert heard.of(events.NotServing) == []


def test_a_server_that_comes_back_is_asked_again(
    servers: list[FaultServer], make_pool: Callable[..., Pool], heard: Heard
) -> None:
    first = servers[0]
    pool = make_pool(targets(servers), health_check="echo", backoff_min=0.1, backoff_max=0.2)
    first.kill()
    until(lambda: state_of(pool, first.target) == "down")
    seen = len(first.requests)
    first.start()
    until(lambda: state_of(pool, first.target) == "ready")
    until(lambda: any("Health" in request.method for request in list(first.requests)[seen:]))


def test_a_status_that_a_newer_server_may_know_is_not_that_it_serves() -> None:
    told = [health_of(health_pb2.HealthCheckResponse(status=status)) for status in (SERVING, NOT_SERVING, 77)]
    assert told == [(True, "SERVING"), (False, "NOT_SERVING"), (False, "status 77")]


def test_what_a_server_says_when_it_comes_back_counts(
    servers: list[FaultServer], make_pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = threading.Event()
    look = Lookout.look
    monkeypatch.setattr(Lookout, "look", lambda self: not late.is_set() and look(self))
    back = servers[0]
    pool = make_pool(targets(servers), health_check="", backoff_min=0.1, backoff_max=0.2)
    back.kill()
    back.serving(False)
    until(lambda: state_of(pool, back.target) not in ("ready", "not serving"))
    # It has said so before the pool sees that there is a connection.
    late.set()
    asked = back.counts["/grpc.health.v1.Health/Watch"]
    back.start()
    back.wait_for(lambda: back.counts["/grpc.health.v1.Health/Watch"] > asked)
    late.clear()
    # Long before a stream that was opened too early is opened anew, which is after half a minute.
    until(lambda: state_of(pool, back.target) == "not serving", 20)


SECRET = "hush"


class Moody(grpc.aio.UnaryStreamClientInterceptor):
    """Raises once, when it is told to."""

    raises = False

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        if self.raises:
            self.raises = False
            raise LookupError(SECRET)
        return await continuation(client_call_details, request)


def test_an_interceptor_that_raises_does_not_end_the_asking(
    servers: list[FaultServer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Of the aio pool only: interceptors of a sync one do not stand in the way of what it asks itself.
    monkeypatch.setattr("grpcpool.aio.health.STREAM", 0.2)
    moody = Moody()

    async def state_is(pool: Any, state: str) -> None:
        while [member.state for member in pool.stats().members] != [state]:  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(0.01)

    async def main() -> None:
        async with grpcpool.aio.insecure_channel(
            servers[0].target, size=1, health_check="", interceptors=[moody]
        ) as pool:
            await pool.wait_ready()
            servers[0].serving(False)
            await asyncio.wait_for(state_is(pool, "not serving"), LIMIT)
            moody.raises = True
            while moody.raises:  # noqa: ASYNC110  # no event tells of it
                await asyncio.sleep(0.01)
            servers[0].serving(True)
            await asyncio.wait_for(state_is(pool, "ready"), LIMIT)

    with caplog.at_level(logging.ERROR, "grpcpool"):
        asyncio.run(main())
    (complaint,) = [record.getMessage() for record in caplog.records if "LookupError" in record.getMessage()]
    assert "asking the server of member 0 whether it serves" in complaint
    assert SECRET not in complaint


def test_a_closed_pool_asks_nobody(health_server: Callable[..., HealthServer], flavour: Flavour) -> None:
    server = health_server("Watch")
    before = threading.active_count()
    pool = flavour.insecure(server.target, size=2, health_check="echo")
    pool.wait_ready(timeout=20, min_ready=2)
    pool.close()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("grpcpool-health")])
    assert threading.active_count() <= before + 16
