"""Where threads are while the process forks, and what the child never lets go of; without a fork."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import grpc
import pytest

import grpcpool
from grpcpool.forks import preserve
from grpcpool.sync.parking import Parking, Pause
from grpcpool.testing import ECHO, ServerProcess

from .waiting import until

pytestmark = pytest.mark.integration

UNARY = f"{ECHO}Unary"


def test_the_thread_that_serves_a_channel_waits_until_it_may_go_on(server: ServerProcess) -> None:
    with grpcpool.insecure_channel(server.target, size=1) as pool:
        stream = pool.unary_stream(f"{ECHO}ServerStream")(b"x", metadata=(("count", "1000"), ("gap", "0.01")))
        assert next(stream) == b"x"
        [member] = pool._engine.machine.slots
        parking = Parking()
        parking.call_in(member)
        parking.call_in(member)
        until(parking.is_full)
        late = pool.unary_unary(UNARY).future(b"y")
        # It has its answer, and nobody is there to see it.
        with pytest.raises(grpc.FutureTimeoutError):
            late.result(timeout=0.3)
        parking.open()
        assert late.result(timeout=60) == b"y"
        assert next(stream) == b"x"
        stream.cancel()


def test_a_channel_that_nothing_runs_on_has_no_such_thread(server: ServerProcess) -> None:
    with grpcpool.insecure_channel(server.target, size=2) as pool:
        pool.unary_unary(UNARY)(b"x")
        parking = Parking()
        for member in list(pool._engine.machine.slots):
            parking.call_in(member)
        assert parking.is_full()


def test_rpcs_wait_and_those_that_block_are_waited_for(server: ServerProcess) -> None:
    with grpcpool.insecure_channel(server.target, size=2) as pool:
        pool.wait_ready(min_ready=2)
        method = pool.unary_unary(UNARY)
        answers: list[bytes] = []

        def call(request: bytes, delay: str) -> threading.Thread:
            thread = threading.Thread(target=lambda: answers.append(method(request, metadata=(("delay", delay),))))
            thread.start()
            return thread

        before = call(b"before", "3")
        until(lambda: pool.stats().in_flight == 1)
        pause = Pause(pool._engine, pool._room._lookout, "p")
        pause.begin()
        pause.settle(time.monotonic() + 30, decisions=True)
        assert pool.stats().in_flight == 0
        late = call(b"late", "0")
        late.join(0.3)
        assert late.is_alive()
        pause.end()
        late.join()
        before.join()
        assert answers == [b"before", b"late"]


def test_what_is_preserved_is_never_freed() -> None:
    class Thing:
        pass

    kept, freed = Thing(), Thing()
    references = weakref.ref(kept), weakref.ref(freed)
    preserve(kept)
    del kept, freed
    gc.collect()
    assert references[0]() is not None
    assert references[1]() is None
