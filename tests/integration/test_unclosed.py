"""Pools that nobody closes: collected, or still there when the interpreter ends."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
import warnings
from typing import Any

import pytest

import grpcpool
from grpcpool.testing import ECHO, ServerProcess

from .waiting import connections, until

pytestmark = pytest.mark.integration

UNARY = f"{ECHO}Unary"


def until_gone(server: ServerProcess, threads: int) -> None:
    """Wait until the pool's connections and threads are gone."""
    until(lambda: not connections(server.port) and threading.active_count() <= threads)


def collect(expected: int = 0) -> list[str]:
    """Collect what is garbage, and return what was warned of; again if that is less than expected.

    The pool's own thread holds on to it while it does something.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        until(lambda: gc.collect() >= 0 and len(caught) >= expected)
    return [f"{warning.category.__name__}: {warning.message}" for warning in caught]


def test_a_sync_pool_that_is_collected_open(make_server: Any) -> None:
    server = make_server()
    threads = threading.active_count()
    pool = grpcpool.insecure_channel(server.target, size=3, name="lost")
    method = pool.unary_unary(UNARY)
    assert method(b"x") == b"x"
    del pool
    # A stub needs the pool, by whatever name.
    assert collect() == []
    assert method(b"x") == b"x"
    del method
    [warned] = collect(1)
    assert warned.startswith("ResourceWarning: pool 'lost' was collected while it was open: close() it")
    until_gone(server, threads)


def test_an_aio_pool_that_is_collected_open(make_server: Any) -> None:
    server = make_server()
    threads = threading.active_count()

    async def main() -> None:
        pool = grpcpool.aio.insecure_channel(server.target, size=3, name="lost")
        assert await pool.unary_unary(UNARY)(b"x") == b"x"

    async def collected_on_its_loop() -> list[str]:
        await main()
        return collect(1)

    def collected_after_its_loop() -> list[str]:
        asyncio.run(main())
        return collect(1)

    for warned in (asyncio.run(collected_on_its_loop()), collected_after_its_loop()):
        assert len(warned) == 1
        assert warned[0].startswith("ResourceWarning: pool 'lost' was collected while it was open: close() it")
    until_gone(server, threads)


def test_pools_that_need_no_warning(server: ServerProcess) -> None:
    # Collected at once, all three.
    grpcpool.insecure_channel(server.target)
    grpcpool.aio.insecure_channel(server.target)
    grpcpool.aio.insecure_channel(server.target, per_loop=True)
    with grpcpool.insecure_channel(server.target) as pool:
        pool.unary_unary(UNARY)(b"x")

    async def main() -> None:
        async with grpcpool.aio.insecure_channel(server.target) as pool:
            await pool.unary_unary(UNARY)(b"x")

    asyncio.run(main())
    with pytest.raises(grpcpool.ConfigError):
        grpcpool.insecure_channel(server.target, strategy="no such thing")
    assert collect() == []


COMMON = f"""
import asyncio, sys, threading, time
import grpc, grpcpool
TARGET, UNARY, STREAM = sys.argv[1], "{UNARY}", "{ECHO}ServerStream"
LONG = (("count", "100000"), ("gap", "0.01"))
"""

SYNC = """
pool = grpcpool.insecure_channel(TARGET, size=3, telemetry_interval=0.01, ping_interval=0.05)
unary = pool.unary_unary(UNARY)
unary(b"x")
stream = pool.unary_stream(STREAM)(b"x", metadata=LONG)
next(stream)
future = unary.future(b"x", metadata=(("delay", "300"),))

def go_on():
    while True:
        unary(b"x")

for _ in range(4):
    threading.Thread(target=go_on, daemon=True).start()
pool.subscribe(lambda state: None)
"""

AIO = """
pool = grpcpool.aio.insecure_channel(TARGET, size=3, ping_interval=0.05)

async def main():
    await pool.unary_unary(UNARY)(b"x")
    stream = pool.unary_stream(STREAM)(b"x", metadata=LONG)
    await stream.read()
    pool.unary_unary(UNARY)(b"x", metadata=(("delay", "300"),))

asyncio.run(main())
"""

PER_LOOP = AIO.replace("size=3", "size=3, per_loop=True")

LOOP_LEFT_OPEN = AIO.replace("asyncio.run(main())", "loop = asyncio.new_event_loop(); loop.run_until_complete(main())")


@pytest.mark.parametrize(
    "program", [SYNC, AIO, PER_LOOP, LOOP_LEFT_OPEN], ids=["sync", "aio", "per_loop", "loop left open"]
)
def test_the_interpreter_ends_at_once(program: str, server: ServerProcess) -> None:
    source = textwrap.dedent(COMMON + program) + 'print("ends", flush=True)\n'
    # Not as errors: what cannot be raised is printed, and that is looked for.
    command = [sys.executable, "-W", "always", "-c", source, server.target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ends\n"
        # Far more than it takes; far less than the calls that still run.
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    # grpc's own log lines are none of ours.
    assert "Traceback" not in said
    assert "ResourceWarning: pool" not in said
    assert "Event loop is closed" not in said
    assert "destroyed" not in said
