"""How a pool ends: specified once and shown of both pools."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time

import grpc
import pytest

import grpcpool
from grpcpool import events
from grpcpool.core.messages import Close, Resize
from grpcpool.testing import ECHO, FaultServer, ServerProcess

from .flavours import Flavour, Pool
from .lifecycle import (
    AT_ONCE,
    LONG,
    MakePrimer,
    MakeServer,
    endless,
    in_background,
    of,
    states,
)
from .test_under_load import Load
from .waiting import connections, pool_threads, until

pytestmark = pytest.mark.integration


class Closing:
    """A pool that is being closed in the background."""

    def __init__(self, pool: Pool, grace: float | None) -> None:
        self._started = time.monotonic()
        self._future = pool.flavour.in_background(pool.raw.close, grace)
        until(lambda: "closed" in repr(pool.raw))

    def over(self) -> float:
        """Wait for the end, and return how many seconds it took in all."""
        self._future.result(2 * LONG)
        return time.monotonic() - self._started


def test_close_refuses_new_rpcs_at_once_and_lets_the_running_ones_end(flavour: Flavour, server: ServerProcess) -> None:
    pool = flavour.insecure(server.target, size=3)
    pool.wait_ready(min_ready=3)
    drained = [pool.begin_unary(metadata=(("delay", "0.6"),)) for _ in range(3)]
    pool.resize(1)
    running = pool.begin_unary(metadata=(("delay", "0.6"),))
    closing = Closing(pool, LONG)
    for attempt in (pool.unary, pool.server_stream, pool.get_channel):
        with pytest.raises(grpcpool.PoolClosed):
            attempt()
    assert [flavour.finish(call) for call in [*drained, running]] == [b"x"] * 4
    assert closing.over() < AT_ONCE


def test_what_is_not_over_within_the_grace_is_cancelled_on_draining_members_too(
    flavour: Flavour, server: ServerProcess
) -> None:
    heard: list[events.Event] = []
    pool = flavour.insecure(server.target, size=3, listeners=heard.append)
    pool.wait_ready(min_ready=3)
    streams = [endless(pool) for _ in range(3)]
    pool.resize(1)
    in_time = pool.begin_unary(metadata=(("delay", "0.1"),))
    pool.close(5.0)
    assert flavour.finish(in_time) == b"x"
    assert [flavour.code(stream) for stream in streams] == [grpc.StatusCode.CANCELLED] * 3
    assert [event.cancelled for event in of(events.Drained, heard)] == [1, 1, 1]
    assert pool.stats().in_flight == 0
    assert isinstance(heard[-1], events.Closed)


def test_a_close_that_is_cancelled_ends_at_once(server: ServerProcess) -> None:
    # Of the aio pool only: nobody cancels a thread.
    async def run() -> None:
        pool = grpcpool.aio.insecure_channel(server.target, size=2)
        stream = pool.unary_stream(f"{ECHO}ServerStream")(b"x", metadata=(("count", "1000"), ("gap", "0.02")))
        assert await stream.read() == b"x"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(pool.close(LONG), 0.2)
        assert await stream.code() is grpc.StatusCode.CANCELLED
        assert pool.stats().members == ()
        await pool.close()

    asyncio.run(run())


def test_closing_often_and_at_once_is_closing_once(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server()
    heard: list[events.Event] = []
    pool = flavour.insecure(server.target, size=4, listeners=heard.append, name="closed often")
    pool.wait_ready(min_ready=4)
    stream = endless(pool)
    closings = [flavour.in_background(pool.raw.close, grace) for grace in (None, 0, LONG, 0.1, None, LONG, 0, 1)]
    started = time.monotonic()
    for closing in closings:
        closing.result(LONG)
    pool.close()
    pool.close(LONG)
    assert time.monotonic() - started < AT_ONCE
    assert flavour.code(stream) is grpc.StatusCode.CANCELLED
    # A call object of grpc.aio keeps its connection.
    del stream
    assert len(of(events.Closed, heard)) == 1
    assert len(of(events.Drained, heard)) == 4
    assert "closed often" not in grpcpool.pools()
    until(lambda: connections(server.port) == 0)
    until(lambda: pool_threads() == [])


@pytest.mark.parametrize("how", ["killed", "frozen"])
@pytest.mark.parametrize("grace", [None, LONG])
def test_closing_while_it_opens(flavour: Flavour, make_server: MakeServer, how: str, grace: float | None) -> None:
    server = make_server()
    server.kill() if how == "killed" else server.pause()
    pool = flavour.insecure(server.target, size=3)
    waiting = flavour.in_background(pool.raw.wait_ready, LONG)
    if how == "killed":
        until(lambda: pool.stats().connect_failures >= 3)
    else:
        until(lambda: states(pool) == ["connecting"] * 3)
    assert Closing(pool, grace).over() < AT_ONCE
    with pytest.raises(grpcpool.PoolClosed):
        waiting.result(LONG)
    until(lambda: pool_threads() == [])


def test_opening_and_closing_at_the_same_moment(flavour: Flavour, server: ServerProcess) -> None:
    for _ in range(20):
        pool = flavour.insecure(server.target, size=2)
        opening = flavour.in_background(pool.raw.open)
        closing = flavour.in_background(pool.raw.close, LONG)
        closing.result(AT_ONCE)
        assert opening.exception(LONG) is None or isinstance(opening.exception(), grpcpool.PoolClosed)
        assert pool.stats().members == ()
    until(lambda: pool_threads() == [])


def test_closing_a_pool_whose_channels_cannot_be_made(flavour: Flavour, server: ServerProcess) -> None:
    def credentials() -> grpc.ChannelCredentials:
        raise LookupError

    pool = flavour.secure(server.target, credentials, size=3, backoff_min=0.1)
    pool.open()
    until(lambda: pool.stats().connect_failures >= 3)
    assert Closing(pool, LONG).over() < AT_ONCE


def test_closing_during_a_resize(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server()
    pool = flavour.insecure(server.target, size=1)
    pool.wait_ready()
    server.pause()
    growing = flavour.in_background(pool.raw.scale_up, 3)
    until(lambda: states(pool) == ["connecting"] * 3 + ["ready"])
    assert Closing(pool, LONG).over() < AT_ONCE
    with pytest.raises(grpcpool.PoolClosed, match="during the resize"):
        growing.result(LONG)


def test_closing_during_a_recycling(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server()
    heard: list[events.Event] = []
    pool = flavour.insecure(server.target, size=2, max_lifetime=0.3, listeners=heard.append)
    pool.wait_ready(min_ready=2)
    call = pool.begin_unary(metadata=(("delay", "0.5"),))
    server.pause()
    until(lambda: "connecting" in states(pool))
    closing = Closing(pool, LONG)
    server.resume()
    assert flavour.finish(call) == b"x"
    assert closing.over() < AT_ONCE
    assert sum(event.cancelled for event in of(events.Drained, heard)) == 0


@pytest.mark.parametrize(
    ("habit", "grace"), [("waits", None), ("waits", LONG), ("calls", None), ("calls", LONG), ("clings", None)]
)
def test_closing_while_a_primer_is_stuck(
    flavour: Flavour,
    make_server: MakeServer,
    grace: float | None,
    habit: str,
    caplog: pytest.LogCaptureFixture,
    make_primer: MakePrimer,
) -> None:
    server = make_server()
    primer = make_primer(stuck=1000, habit=habit)
    pool = flavour.insecure(server.target, size=2, primer=getattr(primer, flavour.name), primer_timeout=LONG)
    pool.open()
    until(lambda: states(pool) == ["priming"] * 2)
    with caplog.at_level(logging.ERROR, "grpcpool"):
        assert Closing(pool, grace).over() < AT_ONCE
        primer.over.set()
        until(lambda: pool_threads() == [])
    assert caplog.records == [], "what a primer says to the end of its channel is no news"
    until(lambda: connections(server.port) == 0)


def test_closing_while_rpcs_wait_in_line(flavour: Flavour, fault_server: FaultServer) -> None:
    pool = flavour.insecure(fault_server.target, size=1, max_concurrent_streams=1, unresponsive_after=None)
    pool.wait_ready()
    fault_server.hang()
    running = pool.begin_unary()
    waiting = in_background(pool, 10, delay=0)
    until(lambda: pool.stats().waiting == 10)
    closing = Closing(pool, LONG)
    for call in waiting:
        with pytest.raises(grpc.RpcError, match="closed while this RPC waited") as caught:
            call.result(AT_ONCE)
        assert isinstance(caught.value, grpcpool.PoolClosed)
    fault_server.heal()
    assert flavour.finish(running) == b"x"
    assert closing.over() < AT_ONCE
    assert (pool.stats().waiting, pool.stats().in_flight) == (0, 0)


def test_closing_beside_a_slow_listener(server: ServerProcess) -> None:
    # Of the sync pool only: on a loop nothing is beside a listener.
    connecting, go_on = threading.Event(), threading.Event()

    def credentials() -> grpc.ChannelCredentials:
        raise LookupError

    def listen(event: events.Event) -> None:
        match event:
            case events.ConnectFailed():
                connecting.set()
                go_on.wait(LONG)
            case events.ScaledDown():
                time.sleep(0.2)

    pool = grpcpool.secure_channel(server.target, credentials, size=2, listeners=listen)
    opening = threading.Thread(target=pool.open)
    opening.start()
    assert connecting.wait(LONG)
    # Both are dealt with together: the pool is said to be closed, then the listener takes its time, then members go.
    pool._room.tell(Resize(None, to=1))
    started = time.monotonic()
    closing = threading.Thread(target=pool.close, args=(LONG,))
    closing.start()
    # Beside them there may be looks, for which it is time meanwhile.
    until(lambda: {Resize, Close} <= {type(message) for message in pool._engine._driver._inbox.copy()})
    go_on.set()
    closing.join(LONG)
    opening.join(LONG)
    assert time.monotonic() - started < AT_ONCE


@pytest.mark.parametrize("cap", [None, 1])
def test_closing_under_load_cuts_nothing_short(flavour: Flavour, server: ServerProcess, cap: int | None) -> None:
    for _ in range(5):
        pool = flavour.insecure(server.target, size=2, max_concurrent_streams=cap)
        pool.wait_ready(min_ready=2)
        running = Load()
        clients = [flavour.in_background(getattr(running, flavour.name), pool.raw) for _ in range(8)]
        until(lambda running=running: running.calls >= 8)
        assert Closing(pool, LONG).over() < AT_ONCE
        for client in clients:
            with pytest.raises(grpcpool.PoolClosed):
                client.result(LONG)
        assert [error for error in running.errors if not isinstance(error, grpcpool.PoolClosed)] == []
        assert pool.stats().in_flight == 0


# --- programs that end without closing

PROGRAMS = {
    "sync": """
import logging, sys, threading, time
import grpcpool

logging.disable(logging.WARNING)

target, situation = sys.argv[1:]
options = {"primer": lambda channel: threading.Event().wait()} if situation == "primer" else {}
pool = grpcpool.insecure_channel(target, size=2, max_concurrent_streams=1, **options)
unary = pool.unary_unary("/grpcpool.testing.Echo/Unary")
assert unary(b"x") == b"x"
if situation == "line":
    arguments = {"args": (b"x",), "kwargs": {"metadata": (("delay", "300"),)}}
    for _ in range(6):
        threading.Thread(target=unary, daemon=True, **arguments).start()
    while pool.stats().waiting < 4:
        time.sleep(0.001)
print("done", flush=True)
""",
    "aio": """
import asyncio, logging, sys
import grpcpool

logging.disable(logging.WARNING)

target, situation = sys.argv[1:]

async def primer(channel):
    await asyncio.Event().wait()

options = {"primer": primer} if situation == "primer" else {}
pool = grpcpool.aio.insecure_channel(target, size=2, max_concurrent_streams=1, **options)
unary = pool.unary_unary("/grpcpool.testing.Echo/Unary")
calls = []

async def main():
    assert await unary(b"x") == b"x"
    if situation == "line":
        calls.extend(unary(b"x", metadata=(("delay", "300"),)) for _ in range(6))
        while pool.stats().waiting < 4:
            await asyncio.sleep(0.001)
    print("done", flush=True)

""",
}
RUN = PROGRAMS["aio"] + "asyncio.run(main())\n"
UNTIL_COMPLETE = PROGRAMS["aio"] + "loop = asyncio.new_event_loop()\nloop.run_until_complete(main())\n"


@pytest.mark.parametrize("situation", ["used", "line", "primer"])
@pytest.mark.parametrize("program", [PROGRAMS["sync"], RUN, UNTIL_COMPLETE], ids=["sync", "run", "until_complete"])
def test_a_program_ends_without_closing_its_pool(server: ServerProcess, program: str, situation: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", program, server.target, situation],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            _, said = process.communicate(timeout=AT_ONCE)
        finally:
            process.kill()
    assert (ready, process.returncode, said) == ("done\n", 0, "")
