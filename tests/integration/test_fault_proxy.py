"""Everything that a `Proxy` can be told, as a plain grpc channel sees it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from grpcpool.testing import ECHO, FaultServer, Proxy

pytestmark = pytest.mark.integration

UNARY = ECHO + "Unary"
TIMEOUT = 60.0
# The second is how long a connection may take to come about: not 50 ms, on a machine that is busy.
FAST = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 10_000)]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def proxy(server: FaultServer) -> Iterator[Proxy]:
    with Proxy(server.target) as proxy:
        yield proxy


@pytest.fixture
def unary(proxy: Proxy) -> Iterator[grpc.UnaryUnaryMultiCallable]:
    """Connected."""
    with grpc.insecure_channel(proxy.target, FAST) as channel:
        unary = channel.unary_unary(UNARY)
        assert unary(b"first", timeout=TIMEOUT) == b"first"
        yield unary


def test_everything_passes_both_ways(proxy: Proxy, unary: grpc.UnaryUnaryMultiCallable) -> None:
    message = bytes(range(256)) * 8000
    assert unary(message, timeout=TIMEOUT) == message
    assert len(proxy.connections) == 1


@pytest.mark.parametrize("by_rst", [False, True])
def test_cut(server: FaultServer, proxy: Proxy, unary: grpc.UnaryUnaryMultiCallable, by_rst: bool) -> None:
    server.hang()
    call = unary.future(b"x", timeout=TIMEOUT)
    server.wait_for(lambda: server.in_flight == 1)
    proxy.cut(reset=by_rst)
    assert proxy.connections == []
    assert call.exception().code() is grpc.StatusCode.UNAVAILABLE
    # The server sees it as well.
    server.wait_for(lambda: not server.connections)
    server.heal()
    assert unary(b"x", wait_for_ready=True, timeout=TIMEOUT) == b"x"


def test_cut_one(server: FaultServer, proxy: Proxy) -> None:
    with (
        socket.create_connection(("127.0.0.1", proxy.port)) as first,
        socket.create_connection(("127.0.0.1", proxy.port)) as second,
    ):
        ports = [first.getsockname()[1], second.getsockname()[1]]
        proxy.wait_for(lambda: sorted(proxy.connections) == sorted(ports))
        proxy.cut_one(ports[0])
        assert proxy.connections == [ports[1]]
        proxy.cut_one(ports[0])
        first.settimeout(TIMEOUT)
        # What the server said before may be there still.
        while first.recv(1000):
            pass
        server.wait_for(lambda: len(server.connections) == 1)


def test_refuse(proxy: Proxy, unary: grpc.UnaryUnaryMultiCallable) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))
    assert unary(b"x", timeout=TIMEOUT) == b"x"
    proxy.heal()
    proxy.heal()
    socket.create_connection(("127.0.0.1", proxy.port)).close()


def test_stall(server: FaultServer, proxy: Proxy, unary: grpc.UnaryUnaryMultiCallable) -> None:
    proxy.stall()
    with pytest.raises(grpc.RpcError) as caught:
        unary(b"x", timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (len(proxy.connections), len(server.connections), server.calls) == (1, 1, 1)
    call = unary.future(b"y", timeout=TIMEOUT)
    proxy.resume()
    assert call.result() == b"y"


def test_what_is_on_its_way_is_stalled_too(
    server: FaultServer, proxy: Proxy, unary: grpc.UnaryUnaryMultiCallable
) -> None:
    proxy.latency(2.0)
    call = unary.future(b"x", timeout=TIMEOUT)
    with pytest.raises(grpc.FutureTimeoutError):
        call.result(0.05)
    proxy.stall()
    with pytest.raises(TimeoutError):
        server.wait_for(lambda: server.calls == 2, timeout=2.2)
    proxy.heal()
    assert call.result() == b"x"


def test_the_end_of_a_connection_does_not_pass_while_stalled(server: FaultServer, proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port)):
        server.wait_for(lambda: len(server.connections) == 1)
        proxy.stall()
    # Nothing would tell of what must not happen: let as much go by as could.
    with pytest.raises(TimeoutError):
        server.wait_for(lambda: not server.connections, timeout=0.1)
    proxy.resume()
    server.wait_for(lambda: not server.connections)
    proxy.wait_for(lambda: not proxy.connections)


def test_latency(proxy: Proxy, unary: grpc.UnaryUnaryMultiCallable) -> None:
    proxy.latency(0.1)
    started = time.monotonic()
    assert unary(b"x", timeout=TIMEOUT) == b"x"
    assert time.monotonic() - started >= 0.2
    # Both are under way at once, and neither waits for the other.
    proxy.latency(2)
    started = time.monotonic()
    calls = [unary.future(b"x", timeout=TIMEOUT) for _ in range(2)]
    assert [call.result() for call in calls] == [b"x"] * 2
    assert time.monotonic() - started >= 3.5


def test_throttle(server: FaultServer, proxy: Proxy, unary: grpc.UnaryUnaryMultiCallable) -> None:
    server.answer("/s/short", b"")
    proxy.throttle(100_000)
    started = time.monotonic()
    assert unary(bytes(20_000), timeout=TIMEOUT) == bytes(20_000)
    # There and back.
    assert time.monotonic() - started >= 0.35
    proxy.throttle(10)
    call = unary.future(bytes(20_000), timeout=TIMEOUT)
    with pytest.raises(grpc.FutureTimeoutError):
        call.result(0.1)
    proxy.throttle(None)
    assert call.result() == bytes(20_000)


def test_a_reset_passes(server: FaultServer, proxy: Proxy, unary: grpc.UnaryUnaryMultiCallable) -> None:
    server.hang()
    call = unary.future(b"x", timeout=TIMEOUT)
    server.wait_for(lambda: server.in_flight == 1)
    server.reset()
    assert call.details() == "Stream removed (recvmsg:Connection reset by peer (104))"
    proxy.wait_for(lambda: not proxy.connections)


def test_nobody_behind_it(server: FaultServer, proxy: Proxy) -> None:
    server.kill()
    with grpc.insecure_channel(proxy.target) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(UNARY)(b"", timeout=TIMEOUT)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def pour(client: socket.socket) -> None:
    """Send more than what all the buffers on the way can hold."""
    for _ in range(1024):
        client.sendall(bytes(1 << 16))


def test_a_server_that_says_nothing_holds_back_who_sends(server: FaultServer, proxy: Proxy) -> None:
    server.black_hole()
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            pour(client)


def test_it_ends_with_its_thread(server: FaultServer) -> None:
    proxy = Proxy(server.port)
    with proxy, pytest.raises(RuntimeError, match="running already"):
        proxy.start()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))
    assert not [thread for thread in threading.enumerate() if str(proxy.port) in thread.name]


def test_what_makes_no_sense_is_refused(proxy: Proxy) -> None:
    for nonsense in ("localhost", "localhost:http", ":50051"):
        with pytest.raises(ValueError, match="neither a port nor"):
            Proxy(nonsense)
    with pytest.raises(ValueError, match="bytes_per_second"):
        proxy.throttle(0)
    with pytest.raises(ValueError, match="seconds"):
        proxy.latency(-1)
    with pytest.raises(TimeoutError, match=rf"<Proxy {proxy.target} to 127\.0\.0\.1:\d+, open: 0 connections>"):
        proxy.wait_for(lambda: proxy.connections, timeout=0.01)
