"""Servers that answer anything: every call ends with a status, nothing of ours fails, and it all works again later."""

from __future__ import annotations

import logging
import random
import socketserver
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from grpcpool.testing import FaultServer

from ..integration.flavours import Flavour, Pool
from ..integration.waiting import until

pytestmark = pytest.mark.integration

CALLERS, CALLS = 6, 10
DEADLINE = 0.4
GOOD = (b"x", [b"x"] * 3)
# Who is in doubt may return soon.
OPTIONS: dict[str, Any] = {
    "size": 3,
    "backoff_min": 0.1,
    "backoff_max": 0.3,
    "ejection_min": 0.2,
    "ejection_max": 0.4,
    "idempotent": "*",
    "strategy": "power_of_two",
}


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """See to it that nobody complains, but of the servers."""
    caplog.set_level(logging.INFO)
    yield
    # Not grpc's own, which tells of every text that is none.
    ours = [record for record in caplog.get_records("call") if record.name.startswith(("grpcpool", "asyncio"))]
    assert [record.getMessage() for record in ours if record.levelno >= logging.ERROR or record.exc_info] == []
    _, err = capfd.readouterr()
    assert "Traceback" not in err
    assert "grpcpool" not in err


def ends(pool: Pool, seed: int) -> Counter[str]:
    """Make calls of all kinds, several at a time, and return how they ended."""
    found: Counter[str] = Counter()

    def caller(number: int) -> None:
        chance = random.Random(seed * 1000 + number)
        for _ in range(CALLS):
            make = chance.choice((pool.unary, pool.server_stream, lambda **o: pool.client_stream([b"x"], **o), bidi))
            try:
                answer = make(timeout=DEADLINE)
            except grpc.RpcError as error:
                # One of grpc's, whatever number was sent.
                code, details = error.code(), error.details()  # type: ignore[attr-defined]
                found[code.name if isinstance(details, str) else f"{code} without details"] += 1
            except CancelledError:
                found["CANCELLED"] += 1
            except Exception as error:
                found[repr(error)] += 1
            else:
                # Where grpc finds a message to be cut off it gives its sync callers none.
                found["OK" if answer in GOOD else "NO_ANSWER"] += 1

    def bidi(**options: Any) -> list[bytes]:
        return pool.bidi([b"x"] * 3, **options)

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
    started = time.monotonic()
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert time.monotonic() - started < 40
    assert sum(found.values()) == CALLERS * CALLS
    assert {end for end in found if not end.isupper()} == set()
    return found


def works(pool: Pool) -> bool:
    """Say whether calls succeed, and all members are well."""
    try:
        good = pool.unary(timeout=30.0) == b"x"
    except grpc.RpcError:
        return False
    return good and bool(pool.status().status == "healthy")


def recovers(pool: Pool) -> None:
    # The end of a connection may come late, and takes what is in flight on it along.
    until(lambda: all(works(pool) for _ in range(12)))
    until(lambda: pool.flavour.collect() or pool.stats().in_flight == 0)
    assert (pool.stats().maintenance_errors, pool.stats().listener_errors) == (0, 0)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("seed", range(3))
def test_random_bytes(flavour: Flavour, seed: int) -> None:
    with FaultServer(seed=seed) as server, flavour.insecure(server.target, seed=seed, **OPTIONS) as pool:
        pool.wait_ready(min_ready=3)
        server.random_bytes(seed, fraction=0.6)
        assert len(ends(pool, seed)) > 1
        server.heal()
        # What a client was told, such as to open no streams at all, or a window that is gone, holds for the connection.
        server.reset()
        recovers(pool)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("what", ["message", "truncated", "connection", "handshake"])
def test_corruption(flavour: Flavour, what: Any) -> None:
    with FaultServer(seed=1) as server, flavour.insecure(server.target, seed=1, **OPTIONS) as pool:
        pool.wait_ready(min_ready=3)
        server.corrupt(what, fraction=0.6)
        if what == "handshake":
            server.reset()
        assert len(ends(pool, 1)) > (what != "handshake")
        server.heal()
        recovers(pool)


SETTINGS = struct.pack(">I", 0)[1:] + struct.pack(">BBI", 4, 0, 0)


class Babbler(socketserver.ThreadingTCPServer):
    """Listens, and says whatever comes to its mind; sometimes it begins like an HTTP/2 server."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.heard = 0
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), Babble)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """It does not care who hangs up."""


class Babble(socketserver.BaseRequestHandler):
    server: Babbler

    def handle(self) -> None:
        chance = self.server.chance
        self.server.heard += 1
        self.request.settimeout(0.2)
        self.request.sendall(SETTINGS * chance.randint(0, 1))
        for _ in range(chance.randint(0, 8)):
            if chance.random() < 0.5:
                self.request.recv(4096)
            self.request.sendall(chance.randbytes(chance.choice((0, 1, 9, 100, 5000))))
        if chance.random() < 0.3:
            # Or it simply says nothing more.
            self.server.over.wait()


@contextmanager
def babbling(seed: int) -> Iterator[Babbler]:
    with Babbler(seed) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("seed", range(3))
def test_a_port_with_something_else_behind(flavour: Flavour, seed: int) -> None:
    with FaultServer() as healthy, babbling(seed) as other:
        port = other.server_address[1]
        targets = [f"127.0.0.1:{port}", healthy.target]
        with flavour.insecure(targets, seed=seed, connect_timeout=1.0, **{**OPTIONS, "size": 4}) as pool:
            pool.wait_ready()
            ends(pool, seed)
            until(lambda: other.heard > 3)
            other.over.set()
            other.shutdown()
            other.server_close()
            # And now there is a server where it was.
            with FaultServer(port):
                recovers(pool)
