"""Programs that fork: ``python -m tests.integration.forking NAME TARGET``. See `test_forks`, which runs them.

Each in a process of its own, for a fork copies whatever else is going on. Each ends with 0 if all was as it should be.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool import events
from grpcpool.testing import ECHO

# For one child, in seconds: far more than it takes, so that one that takes as long hangs.
PATIENCE = 60.0
UNARY = f"{ECHO}Unary"
CALLS = 20

# Made when this module is imported, and so in a child that is spawned as well.
TARGET = sys.argv[2] if len(sys.argv) > 2 else "localhost:1"
# Without a name where this is imported only for the names of its programs.
NAME = "shared" if __name__ in ("__main__", "__mp_main__") else None
pool = grpcpool.insecure_channel(TARGET, size=3, name=NAME)
unary = pool.unary_unary(UNARY)


def call(_: object = None, *, times: int = CALLS) -> int:
    """Make some calls through the shared pool, and return from which process."""
    for _ in range(times):
        assert unary(b"x", timeout=60) == b"x"
    return os.getpid()


def begin(work: Callable[[], object]) -> int:
    """Have a child do the work, and return its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def end(pid: int) -> str:
    """Wait for a child, and return how it ended."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return f"exit {code}" if code >= 0 else signal.Signals(-code).name
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hang"


def child(work: Callable[[], object] = call) -> None:
    """Have a child do the work, and see that it ends well."""
    assert end(begin(work)) == "exit 0"


@contextmanager
def load(threads: int, work: Callable[[], object]) -> Iterator[None]:
    """Have `work` done by threads, again and again; what it raises is raised at the end."""
    stop = threading.Event()
    failed: list[BaseException] = []
    done = Counter[int]()

    def run(number: int) -> None:
        while not stop.is_set():
            try:
                work()
                done[number] += 1
            except BaseException as error:
                failed.append(error)

    workers = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    while len(done) < threads and not failed:
        time.sleep(0.01)
    before = done.total()
    try:
        yield
    finally:
        after = done.total()
        stop.set()
        for worker in workers:
            worker.join(PATIENCE)
    assert not any(worker.is_alive() for worker in workers)
    assert not failed, failed[:3]
    assert after > before, "nothing was done meanwhile"


# --- under load


def under_load() -> None:
    """50 forks under load from 8 threads; the children go on with the parent's stub."""

    def work() -> None:
        # Slow enough to leave the children something of the machine.
        assert unary(b"x", timeout=60, metadata=(("delay", "0.02"),)) == b"x"

    with load(8, work):
        ends = Counter(end(begin(call)) for _ in range(50))
    assert ends == {"exit 0": 50}, ends


def under_mixed_load() -> None:
    """The same with futures and streams, by way of channels of single members too, and several children at once."""
    stream = pool.unary_stream(f"{ECHO}ServerStream")
    both = pool.stream_stream(f"{ECHO}Bidi")
    pool.wait_ready(min_ready=3)
    own = pool.get_channel().unary_unary(UNARY)

    def work() -> None:
        assert unary.future(b"a", timeout=60).result() == b"a"
        assert len(list(stream(b"b", timeout=60))) == 3
        assert list(both(iter([b"c", b"d"]), timeout=60)) == [b"c", b"d"]
        assert own(b"e", timeout=60) == b"e"

    with load(4, work):
        ends: Counter[str] = Counter()
        for _ in range(5):
            ends.update([end(pid) for pid in [begin(lambda: (work(), call())) for _ in range(3)]])
    assert ends == {"exit 0": 15}, ends


def long_calls() -> None:
    """Calls that last: streams are no trouble; one that blocks makes the fork wait a little, and is told of."""
    told: list[str] = []
    handler = logging.Handler()
    handler.addFilter(lambda record: "forks while" in record.getMessage())
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("grpcpool").addHandler(handler)
    metadata = (("count", "1000000"), ("gap", "0.01"))
    stream = pool.unary_stream(f"{ECHO}ServerStream")(b"x", metadata=metadata)
    assert next(stream) == b"x"
    for _ in range(3):
        child()
    assert next(stream) == b"x"
    assert told == []
    with concurrent.futures.ThreadPoolExecutor() as threads:
        blocked = threads.submit(unary, b"x", metadata=(("delay", "6"),))
        while pool.stats().in_flight < 2:
            time.sleep(0.01)
        pid = begin(lambda: None)
        assert blocked.result() == b"x"
    assert end(pid) == "exit 0"
    assert next(stream) == b"x"
    assert len(told) == 1
    assert "forks while RPCs are running" in told[0]
    stream.cancel()


# --- what a child finds


def what_a_child_finds() -> None:
    """Fresh members, nothing in flight, and all that was made before works."""
    seen: list[Any] = []
    pool.add_listener(seen.append)
    pool.wait_ready(min_ready=3)
    own = pool.get_channel()
    call()
    closed = grpcpool.insecure_channel(TARGET)
    call_of_closed = closed.unary_unary(UNARY)
    call_of_closed(b"x")
    closed.close()
    states: list[grpc.ChannelConnectivity] = []
    pool.subscribe(states.append)
    stream = pool.unary_stream(f"{ECHO}ServerStream")(b"x", metadata=(("count", "1000000"), ("gap", "0.01")))
    before = {member.id: member.calls for member in pool.stats().members}
    channels = [weakref.ref(member.channel) for member in pool._engine.machine.slots]

    def look() -> None:
        seen.clear()
        states.clear()
        stats = pool.stats()
        assert (stats.in_flight, stats.calls, stats.members) == (0, 0, ())
        assert pool.status().current_size == 0
        with pytest.raises(grpcpool.NotConnected):
            pool.get_channel()
        pool.wait_ready(min_ready=3)
        assert [type(event) for event in seen if isinstance(event, events.Opened)] == [events.Opened]
        assert own.unary_unary(UNARY)(b"y") == b"y"
        call()
        assert pool.stats().calls == CALLS + 1
        assert grpcpool.get_pool("shared") is pool
        while grpc.ChannelConnectivity.READY not in states:
            time.sleep(0.01)
        pool.scale_up(1)
        with pytest.raises(grpcpool.PoolClosed):
            call_of_closed(b"x")
        gc.collect()
        assert all(channel() is not None for channel in channels), "the parent's channels are never freed"
        # Children of children.
        child()
        pool.close()
        with pytest.raises(grpcpool.PoolClosed):
            call()

    child(look)
    assert {member.id: member.calls for member in pool.stats().members} == before
    call()
    stream.cancel()


def not_by_exit() -> None:
    """A child that ends as a program does, by running off its end, with all of the parent's things around."""
    call()
    stream = pool.unary_stream(f"{ECHO}ServerStream")(b"x", metadata=(("count", "1000000"), ("gap", "0.01")))
    assert next(stream) == b"x"
    pid = os.fork()
    if pid:
        assert end(pid) == "exit 0"
        assert next(stream) == b"x"
        stream.cancel()
        call()
    else:
        call()


# --- in the middle of things


def in_a_listener() -> None:
    """While the pool opens, by the thread that opens it: the child asks again."""
    pids: list[int] = []
    parent = os.getpid()

    def listener(event: events.Event) -> None:
        if isinstance(event, events.Opened) and os.getpid() == parent and not pids:
            pids.append(os.fork())

    pool.add_listener(listener)
    call()
    if os.getpid() != parent:
        os._exit(0)
    assert [end(pid) for pid in pids] == ["exit 0"]


def in_a_listener_elsewhere() -> None:
    """In the pool's own thread: that is the child's only one then."""
    ends: list[str] = []
    done = threading.Event()

    def listener(event: events.Event) -> None:
        if isinstance(event, events.StatusReport) and not done.is_set():
            ends.append(end(begin(call)))
            done.set()

    with grpcpool.insecure_channel(TARGET, telemetry_interval=0.1, listeners=listener) as other:
        other.wait_ready()
        call()
        assert done.wait(PATIENCE)
        assert other.unary_unary(UNARY)(b"x") == b"x"
    assert ends == ["exit 0"]


def in_a_callback() -> None:
    """In a thread of grpc's, that calls the callback of a call."""
    ends: list[str] = []
    done = threading.Event()

    def callback(_: object) -> None:
        ends.append(end(begin(call)))
        done.set()

    future = unary.future(b"x")
    future.add_done_callback(callback)
    assert done.wait(PATIENCE)
    assert ends == ["exit 0"]
    call()


def while_making_a_channel() -> None:
    """In a factory of credentials."""
    parent = os.getpid()
    pids: list[int] = []

    def credentials() -> Any:
        if not pids:
            pids.append(os.fork())
        return grpc.ssl_channel_credentials()

    with grpcpool.secure_channel(TARGET, credentials, size=2) as other:
        # For the server speaks no TLS.
        with pytest.raises(grpc.RpcError):
            other.unary_unary(UNARY)(b"x", timeout=60)
        call()
        assert other.stats().size == len(other.stats().members) == 2
        # And nobody else is looked at.
        assert len(other._room._lookout) == 2
    if os.getpid() != parent:
        os._exit(0)
    assert [end(pid) for pid in pids] == ["exit 0"]


def while_others_open_and_close() -> None:
    """While other threads open, use, resize and close pools, and make stubs."""

    def work() -> None:
        with grpcpool.insecure_channel(TARGET, size=2) as other:
            other.unary_unary(UNARY, request_serializer=lambda request: request)(b"x", timeout=60)
            other.scale_up(1)

    with load(3, work):
        ends = Counter(end(begin(call)) for _ in range(15))
    assert ends == {"exit 0": 15}, ends


def in_a_with_statement() -> None:
    """The child leaves the block, and so closes its own pool, and nobody else's."""
    parent = os.getpid()
    with grpcpool.insecure_channel(TARGET, size=2) as other:
        method = other.unary_unary(UNARY)
        method(b"x")
        pid = os.fork()
        method(b"x")
    if os.getpid() != parent:
        os._exit(0)
    with grpcpool.insecure_channel(TARGET, size=2) as other:
        other.unary_unary(UNARY)(b"x")
        child(other.close)
        other.unary_unary(UNARY)(b"x")
    assert end(pid) == "exit 0"


# --- ways to make processes


def multiprocessing_fork() -> None:
    _multiprocessing("fork")


def multiprocessing_spawn() -> None:
    _multiprocessing("spawn")


def _multiprocessing(method: str) -> None:
    call()
    with load(2, lambda: call(times=1)):
        with multiprocessing.get_context(method).Pool(3) as processes:
            pids = processes.map(call, range(12), chunksize=1)
        executor = concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method))
        with executor:
            pids += executor.map(call, range(6))
    assert len(pids) == 18
    assert os.getpid() not in pids


def prefork() -> None:
    """As Celery does: a parent that has used the pool, children that live long, and all go on at once."""
    call()

    def serve() -> None:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            call()

    pids = []
    for _ in range(3):
        pids.append(begin(serve))
        call()
    serve()
    assert [end(pid) for pid in pids] == ["exit 0"] * 3


def pickling() -> None:
    """Refused, with what to do instead."""
    for each in (pool, grpcpool.aio.insecure_channel(TARGET), grpcpool.aio.insecure_channel(TARGET, per_loop=True)):
        with pytest.raises(TypeError, match="let each process make its own"):
            pickle.dumps(each)
    config = pickle.loads(pickle.dumps(pool.config))
    assert config == pool.config


# --- aio


async def _use(channel: Any) -> None:
    method = channel.unary_unary(UNARY)
    for _ in range(CALLS):
        assert await asyncio.wait_for(method(b"x", timeout=60), PATIENCE / 2) == b"x"


def aio_after_its_loop() -> None:
    """The loop has ended when the process forks: then grpc.aio can begin anew, here and there."""
    channel = grpcpool.aio.insecure_channel(TARGET, size=2)
    for _ in range(2):
        asyncio.run(_use(channel))
        child(lambda: asyncio.run(_use(channel)))
    asyncio.run(_use(channel))
    asyncio.run(channel.close())


def aio_before_any_loop() -> None:
    """Made, and never used, when the process forks."""
    channel = grpcpool.aio.insecure_channel(TARGET, size=2, per_loop=True)
    child(lambda: asyncio.run(_use(channel)))
    asyncio.run(_use(channel))
    asyncio.run(channel.close())


def aio_on_a_running_loop() -> None:
    """grpc.aio is at work when the process forks: the child is told; the parent goes on; and sync pools work."""
    for options in ({}, {"per_loop": True}):
        channel = grpcpool.aio.insecure_channel(TARGET, size=2, **options)

        def look(channel: Any = channel) -> None:
            call()
            loop = asyncio.new_event_loop()
            # The parent's is still said to run here, in this thread.
            asyncio.events._set_running_loop(None)
            with pytest.raises(grpcpool.PoolError, match="forked from one in which"):
                loop.run_until_complete(_use(channel))
            with pytest.raises(grpc.aio.UsageError):
                loop.run_until_complete(channel.wait_ready())

        async def main(channel: Any = channel, look: Any = look) -> None:
            async with channel:
                await _use(channel)
                await asyncio.to_thread(child, look)
                await _use(channel)

        asyncio.run(main())


def main() -> None:
    warnings.simplefilter("error")
    # What newer versions of Python say of every fork of a process that has threads.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    # The pool lives as long as the program, and ends with it.
    globals()[sys.argv[1]]()


if __name__ == "__main__":
    main()
