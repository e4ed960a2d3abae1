"""Every fault of a `FaultServer`, as a plain grpc channel sees it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from grpcpool.testing import ECHO, Failure, FaultServer
from grpcpool.testing.garbage import PING, SETTINGS, frame

from .waiting import until

pytestmark = pytest.mark.integration

UNARY = ECHO + "Unary"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
TIMEOUT = 60.0
REFUSED = "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))"
SENT_AWAY = "Stream removed (GOAWAY received; Error code: 0; Debug Text: )"
RESET = "Stream removed (recvmsg:Connection reset by peer (104))"
NO_RESENDS = [("grpc.enable_retries", 0)]
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the words are those of Linux")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def channel(server: FaultServer) -> Iterator[grpc.Channel]:
    # Whoever comes back finds the server soon.
    with grpc.insecure_channel(server.target, [("grpc.initial_reconnect_backoff_ms", 50)]) as channel:
        yield channel


def code_of(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


Outcome = tuple[grpc.StatusCode, str] | bytes


class Once:
    """One call on a channel of its own: connect, do something to the server, call, do something while it runs."""

    def __init__(self, room: str) -> None:
        self.room = room

    def __call__(
        self,
        server: FaultServer,
        before: Callable[[], object],
        during: Callable[[], object] | None = None,
        timeout: float = TIMEOUT,
        options: Any = (),
    ) -> Outcome:
        def act() -> None:
            if during is not None:
                server.wait_for(lambda: server.in_flight == 1)
                during()

        try:
            if self.room == "aio":
                return asyncio.run(self._aio(server.target, options, before, act, timeout))
            with grpc.insecure_channel(server.target, options) as channel:
                unary = channel.unary_unary(UNARY)
                assert unary(b"first", timeout=TIMEOUT) == b"first"
                before()
                call = unary.future(b"second", timeout=timeout)
                act()
                answer: bytes = call.result()
                return answer
        except grpc.RpcError as error:
            return error.code(), error.details()

    @staticmethod
    async def _aio(target: str, options: Any, before: Any, act: Any, timeout: float) -> bytes:
        async with grpc.aio.insecure_channel(target, options) as channel:
            unary = channel.unary_unary(UNARY)
            assert await unary(b"first", timeout=TIMEOUT) == b"first"
            before()
            call = unary(b"second", timeout=timeout)
            _, answer = await asyncio.gather(asyncio.to_thread(act), call)
            return bytes(answer)


@pytest.fixture(params=["sync", "aio"])
def once(request: pytest.FixtureRequest) -> Once:
    return Once(request.param)


# --- answers


def test_every_kind_of_call_is_echoed(channel: grpc.Channel) -> None:
    assert channel.unary_unary("/any.Service/Method")(b"x", timeout=TIMEOUT) == b"x"
    assert list(channel.unary_stream(ECHO + "ServerStream")(b"x", timeout=TIMEOUT)) == [b"x"] * 3
    assert channel.stream_unary(ECHO + "ClientStream")(iter([b"a", b"b"]), timeout=TIMEOUT) == b"ab"
    assert list(channel.stream_stream(ECHO + "Bidi")(iter([b"a", b"b"]), timeout=TIMEOUT)) == [b"a", b"b"]


def test_a_stream_is_answered_message_by_message(channel: grpc.Channel) -> None:
    sent = threading.Semaphore(0)

    def requests() -> Iterator[bytes]:
        for number in range(3):
            assert sent.acquire(timeout=TIMEOUT)
            yield b"%d" % number

    answers = channel.stream_stream(ECHO + "Bidi")(requests(), timeout=TIMEOUT)
    for number in range(3):
        sent.release()
        assert next(answers) == b"%d" % number
    assert list(answers) == []


def test_messages_larger_than_every_window_pass(channel: grpc.Channel) -> None:
    message = bytes(3_000_000)
    assert channel.unary_unary(UNARY)(message, timeout=TIMEOUT) == message


def test_answers_are_what_they_are_said_to_be(server: FaultServer, channel: grpc.Channel) -> None:
    server.answer("/s/fixed", b"always this")
    server.answer("/s/made", bytes.upper)
    server.answer("/s/several", lambda request: [request, request * 2])
    server.answer("/s/joined", lambda request: request[::-1], whole=True)
    assert channel.unary_unary("/s/fixed")(b"x", timeout=TIMEOUT) == b"always this"
    assert channel.unary_unary("/s/made")(b"x", timeout=TIMEOUT) == b"X"
    assert list(channel.unary_stream("/s/several")(b"x", timeout=TIMEOUT)) == [b"x", b"xx"]
    assert channel.stream_unary("/s/joined")(iter([b"ab", b"c"]), timeout=TIMEOUT) == b"cba"


def test_an_answer_may_fail_in_the_middle(server: FaultServer, channel: grpc.Channel) -> None:
    def answer(request: bytes) -> Iterator[bytes]:
        yield request
        raise Failure(grpc.StatusCode.DATA_LOSS, "50 % of it … gone")

    server.answer("/s/half", answer)
    server.answer("/s/bug", lambda request: bytes([1 // len(request)]))
    call = channel.unary_stream("/s/half")(b"x", timeout=TIMEOUT)
    assert next(call) == b"x"
    assert code_of(lambda: next(call)) == (grpc.StatusCode.DATA_LOSS, "50 % of it … gone")
    code, details = code_of(lambda: channel.unary_unary("/s/bug")(b"", timeout=TIMEOUT))
    assert (code, details.split(":")[0]) == (grpc.StatusCode.UNKNOWN, "ZeroDivisionError")


def test_an_answer_may_change_the_server(server: FaultServer, channel: grpc.Channel) -> None:
    def last(request: bytes) -> bytes:
        server.kill()
        return request

    server.answer("/s/last", last)
    assert code_of(lambda: channel.unary_unary("/s/last")(b"", timeout=TIMEOUT))[0] is UNAVAILABLE


def test_compressed_messages_are_turned_down(channel: grpc.Channel) -> None:
    unary = channel.unary_unary(UNARY)
    code, details = code_of(lambda: unary(bytes(5000), compression=grpc.Compression.Gzip, timeout=TIMEOUT))
    assert (code, details) == (grpc.StatusCode.UNIMPLEMENTED, "this server does not read compressed messages")


def test_the_health_service_says_what_it_is_told(server: FaultServer, channel: grpc.Channel) -> None:
    check, watch = channel.unary_unary(CHECK), channel.unary_stream(WATCH)(b"", timeout=TIMEOUT)
    assert (check(b"", timeout=TIMEOUT), next(watch)) == (b"\x08\x01", b"\x08\x01")
    server.serving(False)
    assert (check(b"", timeout=TIMEOUT), next(watch)) == (b"\x08\x02", b"\x08\x02")
    server.heal()
    assert (check(b"", timeout=TIMEOUT), next(watch)) == (b"\x08\x01", b"\x08\x01")
    watch.cancel()
    server.wait_for(lambda: server.in_flight == 0)
    assert server.calls == 0
    assert server.counts == {CHECK: 3, WATCH: 1}


# --- what it has seen


def test_it_tells_what_reached_it(server: FaultServer, channel: grpc.Channel) -> None:
    started = time.monotonic()
    channel.unary_unary(UNARY)(b"", metadata=[("attempt", "2")], timeout=TIMEOUT)
    channel.unary_unary("/s/other")(b"")
    assert (server.calls, server.counts) == (2, {UNARY: 1, "/s/other": 1})
    first, second = server.requests
    assert first.method == UNARY
    assert ("attempt", "2") in first.metadata
    assert not {"te", "content-type", "grpc-timeout", ":path"} & dict(first.metadata).keys()
    assert first.timeout is not None
    assert TIMEOUT - 5 < first.timeout < TIMEOUT + 1
    assert second.timeout is None
    assert started <= first.at <= second.at <= time.monotonic()
    (connection,) = server.connections
    assert connection == (first.port, 2, 0)
    assert server.accepted == 1


def test_a_call_that_its_client_gives_up_is_not_in_flight_any_more(server: FaultServer, channel: grpc.Channel) -> None:
    server.hang()
    call = channel.unary_unary(UNARY).future(b"")
    server.wait_for(lambda: server.in_flight == 1)
    assert server.connections[0].in_flight == 1
    call.cancel()
    server.wait_for(lambda: server.in_flight == 0)


def test_waiting_for_what_does_not_happen_says_how_things_are(server: FaultServer) -> None:
    with pytest.raises(TimeoutError, match=rf"0\.01 s; <FaultServer {server.target} up: 0 connections, 0 calls"):
        server.wait_for(lambda: server.calls == 1, timeout=0.01)


# --- faults of calls


def test_slow(server: FaultServer, channel: grpc.Channel) -> None:
    unary = channel.unary_unary(UNARY)
    server.slow(30)
    assert code_of(lambda: unary(b"", timeout=0.2))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    server.slow(lambda: 0.05)
    started = time.monotonic()
    assert unary(b"x", timeout=TIMEOUT) == b"x"
    assert time.monotonic() - started >= 0.05


def test_hang_until_healed(server: FaultServer, once: Once) -> None:
    assert once(server, server.hang, server.heal) == b"second"


def test_hang_until_the_deadline(server: FaultServer, once: Once) -> None:
    assert once(server, server.hang, timeout=2.0) == (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    server.wait_for(lambda: server.calls == 2)


def test_fail(server: FaultServer, once: Once) -> None:
    started = time.monotonic()
    outcome = once(server, lambda: server.fail(grpc.StatusCode.INTERNAL, "broken: 100 %", after=0.05))
    assert outcome == (grpc.StatusCode.INTERNAL, "broken: 100 %")
    assert time.monotonic() - started >= 0.05


def test_fail_streams_too(server: FaultServer, channel: grpc.Channel) -> None:
    server.fail(grpc.StatusCode.ABORTED)
    endless = iter(lambda: b"", None)
    assert code_of(lambda: channel.stream_unary(ECHO + "ClientStream")(endless, timeout=TIMEOUT))[0] is (
        grpc.StatusCode.ABORTED
    )
    assert code_of(lambda: list(channel.unary_stream(ECHO + "ServerStream")(b"", timeout=TIMEOUT)))[0] is (
        grpc.StatusCode.ABORTED
    )
    server.wait_for(lambda: server.in_flight == 0)


def test_pushback(server: FaultServer, channel: grpc.Channel) -> None:
    server.pushback(250)
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(UNARY)(b"", timeout=TIMEOUT)
    assert caught.value.code() is UNAVAILABLE
    assert ("grpc-retry-pushback-ms", "250") in caught.value.trailing_metadata()


def test_refuse_streams(server: FaultServer, once: Once) -> None:
    assert once(server, server.refuse_streams) == (UNAVAILABLE, REFUSED)
    # The first call of `once`; the second never reached the application.
    assert (server.calls, server.refused) == (1, 1)


@pytest.mark.parametrize(
    ("what", "code"),
    [("message", {grpc.StatusCode.INTERNAL}), ("connection", {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})],
)
def test_corrupt(server: FaultServer, once: Once, what: Any, code: set[grpc.StatusCode]) -> None:
    outcome = once(server, lambda: server.corrupt(what))
    assert isinstance(outcome, tuple)
    assert outcome[0] in code


def test_a_truncated_message_is_none(server: FaultServer, channel: grpc.Channel) -> None:
    server.corrupt("truncated")
    # grpc does not mind at all.
    assert channel.unary_unary(UNARY)(b"x", timeout=TIMEOUT) is None


def test_a_corrupt_handshake(server: FaultServer, channel: grpc.Channel) -> None:
    server.corrupt("handshake")
    code, details = code_of(lambda: channel.unary_unary(UNARY)(b"", timeout=TIMEOUT))
    assert code is UNAVAILABLE
    assert details.startswith("failed to connect to all addresses")
    assert server.calls == 0
    server.heal()
    assert channel.unary_unary(UNARY)(b"x", wait_for_ready=True, timeout=TIMEOUT) == b"x"


def test_random_bytes_end_no_client(server: FaultServer) -> None:
    server.random_bytes(seed=3)
    codes = set()
    options = [("grpc.initial_reconnect_backoff_ms", 10), ("grpc.min_reconnect_backoff_ms", 10)]
    with grpc.insecure_channel(server.target, options) as channel:
        calls = channel.unary_unary(UNARY)
        for _ in range(40):
            try:
                calls(b"x", timeout=0.1)
            except grpc.RpcError as error:
                codes.add(error.code())
        assert len(codes) > 1
        server.heal()

        def answered() -> bool:
            # The connection that there is may have just ended, and nobody knows yet.
            with contextlib.suppress(grpc.RpcError):
                return bool(calls(b"x", wait_for_ready=True, timeout=TIMEOUT) == b"x")
            return False

        until(answered)


def test_faults_for_some_calls(server: FaultServer, channel: grpc.Channel) -> None:
    unary, other = channel.unary_unary(UNARY), channel.unary_unary("/s/other")
    server.fail(grpc.StatusCode.INTERNAL, methods=UNARY, times=2)
    assert other(b"x", timeout=TIMEOUT) == b"x"
    for _ in range(2):
        assert code_of(lambda: unary(b"", timeout=TIMEOUT))[0] is grpc.StatusCode.INTERNAL
    assert unary(b"x", timeout=TIMEOUT) == b"x"


# --- faults of connections


def test_goaway_loses_nothing(server: FaultServer, once: Once) -> None:
    def leave() -> None:
        server.goaway()
        # The call that runs holds the connection; nothing tells when its client has read the farewell.
        assert len(server.connections) == 1
        server.heal()

    assert once(server, server.hang, leave) == b"second"
    server.wait_for(lambda: not server.connections)


def test_a_connection_that_is_sent_away_ends_and_another_one_comes(server: FaultServer, channel: grpc.Channel) -> None:
    unary = channel.unary_unary(UNARY)
    unary(b"", timeout=TIMEOUT)
    server.goaway()
    server.wait_for(lambda: not server.connections)
    assert unary(b"x", timeout=TIMEOUT) == b"x"
    assert server.accepted == 2


def test_the_server_ends_a_connection_that_is_sent_away_even_if_its_client_does_not(server: FaultServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(TIMEOUT)
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
        server.wait_for(lambda: server.connections)
        server.goaway()
        # It asks whether the farewell was heard.
        client.sendall(frame(PING, 1, 0, b"goodbye!"))
        while client.recv(1000):
            pass
    assert not server.connections


def test_goaway_that_does_not_cover_the_next_call(server: FaultServer, once: Once) -> None:
    outcome = once(server, lambda: server.goaway(graceful=False), options=NO_RESENDS)
    assert outcome == (UNAVAILABLE, SENT_AWAY)
    assert (server.calls, server.refused) == (1, 1)


def test_grpc_itself_sends_again_what_a_goaway_does_not_cover(server: FaultServer, once: Once) -> None:
    assert once(server, lambda: server.goaway(graceful=False)) == b"second"
    assert (server.calls, server.refused) == (2, 1)


def test_a_goaway_that_waits_can_be_taken_back(server: FaultServer, once: Once) -> None:
    def change_ones_mind() -> None:
        server.goaway(graceful=False)
        server.heal()

    assert once(server, change_ones_mind) == b"second"
    assert server.refused == 0


@linux_only
def test_reset(server: FaultServer, once: Once) -> None:
    assert once(server, server.hang, server.reset) == (UNAVAILABLE, RESET)
    server.wait_for(lambda: server.in_flight == 0 and not server.connections)


def test_black_hole(server: FaultServer, once: Once) -> None:
    assert once(server, server.black_hole, timeout=0.2) == (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    # It may be there or not: nobody looks. But the connection is.
    assert (server.calls, len(server.connections)) == (1, 1)


def test_out_of_a_black_hole(server: FaultServer, channel: grpc.Channel) -> None:
    unary = channel.unary_unary(UNARY)
    unary(b"", timeout=TIMEOUT)
    server.black_hole()
    call = unary.future(b"x", timeout=TIMEOUT)
    with pytest.raises(grpc.FutureTimeoutError):
        call.result(0.1)
    server.heal()
    assert call.result() == b"x"


def test_who_connects_to_a_black_hole_gets_nothing(server: FaultServer, channel: grpc.Channel) -> None:
    server.black_hole()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        server.wait_for(lambda: server.accepted == 1)
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
    call = channel.unary_unary(UNARY).future(b"x", timeout=TIMEOUT)
    server.wait_for(lambda: server.accepted == 2)
    server.heal()
    assert call.result() == b"x"


def test_a_limit_that_clients_know_is_kept(server: FaultServer, channel: grpc.Channel) -> None:
    server.limit_streams(2)
    server.hang()
    calls = [channel.unary_unary(UNARY).future(b"x", timeout=TIMEOUT) for _ in range(5)]
    server.wait_for(lambda: server.in_flight == 2)
    server.heal()
    assert [call.result() for call in calls] == [b"x"] * 5
    # Clients are told that there is no limit any more.
    server.hang()
    calls = [channel.unary_unary(UNARY).future(b"x", timeout=TIMEOUT) for _ in range(5)]
    server.wait_for(lambda: server.in_flight == 5)
    server.heal()
    assert [call.result() for call in calls] == [b"x"] * 5
    assert server.refused == 0


def test_a_limit_that_nobody_knows_is_enforced(server: FaultServer, channel: grpc.Channel) -> None:
    server.limit_streams(2, advertise=False)
    server.hang()
    calls = [channel.unary_unary(UNARY).future(b"x", timeout=TIMEOUT) for _ in range(5)]
    server.wait_for(lambda: server.in_flight == 2 and server.refused == 3)
    server.heal()
    outcomes = sorted("refused" if call.exception() is not None else "served" for call in calls)
    assert outcomes == ["refused"] * 3 + ["served"] * 2


# --- coming and going


def test_kill(server: FaultServer, once: Once) -> None:
    outcome = once(server, server.hang, server.kill)
    assert isinstance(outcome, tuple)
    assert outcome[0] is UNAVAILABLE
    assert not server.connections
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


def test_back_on_the_same_port(server: FaultServer, channel: grpc.Channel) -> None:
    unary = channel.unary_unary(UNARY)
    for _ in range(3):
        unary(b"", wait_for_ready=True, timeout=TIMEOUT)
        server.kill()
        assert code_of(lambda: unary(b"", timeout=TIMEOUT))[0] is UNAVAILABLE
        assert server.start() is server
    assert unary(b"x", wait_for_ready=True, timeout=TIMEOUT) == b"x"
    assert server.calls == 4
    with pytest.raises(RuntimeError, match="running already"):
        server.start()


@linux_only
def test_nobody_else_gets_the_port_of_a_server_that_is_down(server: FaultServer) -> None:
    server.kill()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", server.port))
    server.close()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", server.port))


def test_stop_lets_calls_end(server: FaultServer, channel: grpc.Channel) -> None:
    server.hang()
    call = channel.unary_unary(UNARY).future(b"x", timeout=TIMEOUT)
    server.wait_for(lambda: server.in_flight == 1)
    stopping = threading.Thread(target=server.stop, args=(TIMEOUT,))
    stopping.start()
    server.wait_for(lambda: not server.running)
    assert stopping.is_alive()
    server.heal()
    assert call.result() == b"x"
    stopping.join(TIMEOUT)
    assert not server.connections


def test_stop_does_not_wait_for_ever(server: FaultServer, once: Once) -> None:
    outcome = once(server, server.hang, lambda: server.stop(grace=0.1))
    assert isinstance(outcome, tuple)
    assert outcome[0] is UNAVAILABLE


def test_stop_does_not_wait_for_the_thread_that_it_is_called_in(server: FaultServer, channel: grpc.Channel) -> None:
    server.answer("/s/stop", lambda request: server.stop() or request)
    code, details = code_of(lambda: channel.unary_unary("/s/stop")(b"", timeout=TIMEOUT))
    assert (code, details.split(":")[0]) == (grpc.StatusCode.UNKNOWN, "RuntimeError")


def test_closing_ends_the_thread_and_keeps_what_was_seen() -> None:
    server = FaultServer()
    server.fail(grpc.StatusCode.INTERNAL, times=1)
    with server, grpc.insecure_channel(server.target) as channel:
        assert code_of(lambda: channel.unary_unary(UNARY)(b"", timeout=TIMEOUT))[0] is grpc.StatusCode.INTERNAL
        server.hang()
        call = channel.unary_unary(UNARY).future(b"", timeout=TIMEOUT)
        server.wait_for(lambda: server.in_flight == 1)
        server.close()
        assert call.exception().code() is UNAVAILABLE
    assert server.calls == 2
    assert not server.connections
    assert not [thread for thread in threading.enumerate() if str(server.port) in thread.name]


def test_without_h2_it_says_what_is_missing() -> None:
    program = "import sys; sys.modules['h2'] = None\nfrom grpcpool.testing import ServerProcess, FaultServer"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert "ImportError: FaultServer needs h2: pip install 'grpcpool[testing]'" in done.stderr
