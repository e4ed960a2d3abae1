"""Members that leave because of what a callback of grpc's has heard, or while one is busy with the pool."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool.testing import ECHO, FaultServer

from .waiting import until

pytestmark = pytest.mark.integration

LONG = 60.0


@pytest.fixture
def pool() -> Any:
    """A pool whose server answers nothing."""
    with FaultServer() as server:
        server.hang()
        with grpcpool.insecure_channel(server.target, size=2, drain_timeout=0.1) as pool:
            pool.wait_ready(min_ready=2)
            yield pool


def begin(pool: Any, count: int) -> list[Any]:
    method = pool.unary_unary(f"{ECHO}Unary")
    return [method.future(b"x", timeout=LONG) for _ in range(count)]


def test_a_callback_that_resizes_while_its_channel_is_being_closed(pool: Any) -> None:
    """grpc's `close` waits for the callback, and that for what is done in the pool."""
    told = threading.Event()

    def callback(_: grpc.Future) -> None:
        pool.resize(3)
        told.set()

    calls = begin(pool, 4)
    for call in calls:
        call.add_done_callback(callback)
    assert pool.resize(1) == 1
    assert told.wait(LONG)
    until(lambda: len(pool.stats().members) == 3)
    for call in calls:
        call.cancel()


def test_a_callback_that_closes_the_pool(pool: Any) -> None:
    told = threading.Event()

    def callback(_: grpc.Future) -> None:
        pool.close()
        told.set()

    calls = begin(pool, 4)
    calls[0].add_done_callback(callback)
    calls[0].cancel()
    assert told.wait(LONG)
    assert all(call.code() is grpc.StatusCode.CANCELLED for call in calls)
