"""Resizing and losing connections while calls keep coming."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import grpc
import pytest

from grpcpool import events
from grpcpool.strategies import Member, Picker, RoundRobin
from grpcpool.testing import ECHO, Proxy, ServerProcess

from .flavours import Flavour, Pool
from .waiting import connections, pool_threads, until

pytestmark = pytest.mark.integration

# When the RPC was begun that is just being picked for.
BEGUN: ContextVar[float] = ContextVar("begun")


class Load:
    """Calls without pause, unary and streaming, from a few threads or tasks.

    Attributes:
        calls: how many ended well.
        errors: what the others raised.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.errors: list[BaseException] = []
        self.over = threading.Event()

    def sync(self, channel: Any) -> None:
        unary, stream = channel.unary_unary(f"{ECHO}Unary"), channel.unary_stream(f"{ECHO}ServerStream")
        while not self.over.is_set():
            try:
                BEGUN.set(time.monotonic())
                assert unary(b"x") == b"x"
                BEGUN.set(time.monotonic())
                assert list(stream(b"x", metadata=(("gap", "0.01"),))) == [b"x"] * 3
                self.calls += 2
            except grpc.RpcError as error:
                self.errors.append(error)

    async def aio(self, channel: Any) -> None:
        unary, stream = channel.unary_unary(f"{ECHO}Unary"), channel.unary_stream(f"{ECHO}ServerStream")
        while not self.over.is_set():
            try:
                BEGUN.set(time.monotonic())
                assert await unary(b"x") == b"x"
                BEGUN.set(time.monotonic())
                assert [m async for m in stream(b"x", metadata=(("gap", "0.01"),))] == [b"x"] * 3
                self.calls += 2
            except grpc.RpcError as error:
                self.errors.append(error)
                # A failed call may come back without ever letting go of the loop.
                await asyncio.sleep(0)


@contextmanager
def load(pool: Pool, clients: int) -> Iterator[Load]:
    """Keep `clients` busy calling."""
    running = Load()
    work = getattr(running, pool.flavour.name)
    futures = [pool.flavour.in_background(work, pool.raw) for _ in range(clients)]
    yield running
    running.over.set()
    for future in futures:
        future.result(60)


def test_two_hundred_resizes_under_load_lose_no_call(
    flavour: Flavour, make_server: Callable[..., ServerProcess]
) -> None:
    server = make_server()
    chance = random.Random(7)
    # A listener counts what happens to members besides.
    lost: list[events.Event] = []
    with flavour.insecure(server.target, size=4, unresponsive_after=None) as pool:
        pool.add_listener(lambda event: lost.append(event) if isinstance(event, events.ConnectionDown) else None)
        pool.wait_ready(min_ready=4)
        with load(pool, 8) as running:
            for _ in range(200):
                size = chance.randint(1, 16)
                assert pool.resize(size) == size
                status = pool.status()
                assert (status.expected_size, status.current_size) == (size, size)
        assert running.errors == []
        assert running.calls > 100
        assert lost == []
        until(lambda: len(pool.stats().members) == size)
        until(lambda: connections(server.port) == size)
        until(lambda: pool.stats().in_flight == 0)
    until(lambda: connections(server.port) == 0)
    until(lambda: pool_threads() == [])


# How long a dead connection may stay among the picks, in seconds, beside what the machine itself holds up.
WITHIN = {"aio": 0.1, "sync": 0.25}
# Without news for so many seconds, a pool has come to rest.
AT_REST = 0.5


class Witness(RoundRobin):
    """Knows which members the pool knows to be down, and sees who is picked nevertheless.

    What a listener hears of a pick needs care. The RPC's thread tells of it, and may have been held up since it picked;
    so only an RPC counts that was begun after the listeners heard that the connection is down (the member has left the
    picks by then). And a member that connects joins the picks before the listeners hear of that; so a pick in between
    is in order, if the pool has built a picker with that member, and if they do hear of it in the end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._down: dict[int, float] = {}
        self._back: set[int] = set()
        self._early: list[int] = []
        self._misses: list[int] = []

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Callable[[], float]) -> Picker:
        with self._lock:
            self._back |= self._down.keys() & {member.id for member in members}
        return super().build(members, rng=rng, clock=clock)

    def listen(self, event: events.Event) -> None:
        with self._lock:
            match event:
                case events.ConnectionDown():
                    self._down[event.member] = time.monotonic()
                    self._back.discard(event.member)
                case events.Connected():
                    self._down.pop(event.member, None)
                    self._back.discard(event.member)
                    self._early = [member for member in self._early if member != event.member]
                # An RPC that does not say when it was begun raises, which is counted.
                case events.Picked() if BEGUN.get() > self._down.get(event.member, math.inf):
                    (self._early if event.member in self._back else self._misses).append(event.member)

    def down_since(self, started: float) -> dict[int, float]:
        """Return which members have gone down since then, and when."""
        with self._lock:
            return {member: when for member, when in self._down.items() if when >= started}

    @property
    def misses(self) -> list[int]:
        """Members picked while they were known to be down. To be read when the pool is closed."""
        return self._misses + self._early


class Stalls:
    """Measures for how long work that is due is kept from being done, by the interpreter and by the machine.

    Where the pool does its own: in a thread; or on the loop, which is starved more than a thread that mostly sleeps.
    """

    STEP = 0.005

    def __init__(self) -> None:
        # The sum, and when that was: in one, for another thread to read.
        self._known = (0.0, time.monotonic())
        self.over = threading.Event()

    def sync(self) -> None:
        while not self.over.wait(self.STEP):
            self._known = (self.so_far(), time.monotonic())

    async def aio(self) -> None:
        while not self.over.is_set():
            await asyncio.sleep(self.STEP)
            self._known = (self.so_far(), time.monotonic())

    def so_far(self) -> float:
        """Return the sum in seconds, with what is going on at this moment."""
        known, woke = self._known
        return known + max(time.monotonic() - woke - self.STEP, 0.0)


def is_connected(pool: Pool, id: int) -> bool:
    """Say whether grpc holds a member to be connected, whatever the pool does."""
    (member,) = (each for each in list(pool.raw._engine.machine.slots) if each.id == id)
    return bool(pool.raw._room._lookout.is_connected(member))


@contextmanager
def measured(flavour: Flavour) -> Iterator[Stalls]:
    """Measure stalls."""
    stalls = Stalls()
    future = flavour.in_background(getattr(stalls, flavour.name))
    yield stalls
    stalls.over.set()
    future.result(60)


def test_cut_connections_leave_the_picks_in_time_and_come_back(
    flavour: Flavour, proxy: Proxy, server: ServerProcess
) -> None:
    witness = Witness()
    took: list[tuple[float, float]] = []
    # Half of the members go through the proxy, so that others are READY whenever it is cut.
    targets = [server.target, proxy.target]
    options: dict[str, Any] = {"strategy": witness, "backoff_min": 0.1, "unresponsive_after": None}
    with flavour.insecure(targets, size=6, **options) as pool, measured(flavour) as stalls:
        pool.wait_ready(min_ready=6)
        pool.add_listener(witness.listen)
        with load(pool, 4) as running:
            for turn in range(10):
                # Every other cut finds the pool at its slow pace: it looks at connections often while there is news.
                time.sleep(AT_REST * (turn % 2))
                stalled, started = stalls.so_far(), time.monotonic()
                members = pool.stats().members
                cut = {member.id for member in members if member.endpoint == proxy.target and member.state == "ready"}
                assert len(cut) == 3
                # Refusing as well: a connection that a call brings back at once was never missed by anybody.
                proxy.refuse()
                proxy.cut()
                # What counts is from when grpc knows.
                until(lambda cut=cut: not any(is_connected(pool, member) for member in cut))
                known = time.monotonic()
                until(lambda cut=cut, started=started: cut <= witness.down_since(started).keys())
                down = witness.down_since(started)
                # By the pool's own account, for this thread may have been late to hear of it.
                took.append((max(down[member] for member in cut) - known, stalls.so_far() - stalled))
                proxy.heal()
                pool.wait_ready(min_ready=6)
        assert running.calls > 0
    assert witness.misses == [], "no RPC goes to a member known to be down while another is READY"
    assert pool.stats().listener_errors == 0
    # The machine's bad moments are not the pool's.
    late = [seconds for seconds, stall in took if seconds > WITHIN[flavour.name] + stall]
    assert late == [], took
