"""While every member is full, RPCs wait in line: specified once and shown of both pools."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool.testing import ECHO, FaultServer, ServerProcess

from ..certificates import make_certificates
from .flavours import TIMEOUT, Flavour, Pool
from .waiting import until

pytestmark = pytest.mark.integration

MakeServer = Callable[..., ServerProcess]
ENDLESS = (("count", "1000000"), ("gap", "0.05"))
DEADLINE = (("answer", "deadline"),)


class Full:
    """A pool whose members are full of streams without an end, and RPCs that wait for one of these."""

    def __init__(self, pool: Pool, capacity: int) -> None:
        self.pool = pool
        self.flavour = pool.flavour
        self.capacity = capacity
        self.streams = [pool.begin_stream(metadata=ENDLESS) for _ in range(capacity)]
        self.waiting = 0

    def begin(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Begin something that has to wait, and return its future when it does."""
        future = self.flavour.in_background(function, *arguments, **options)
        self.waiting += 1
        until(lambda: self.pool.stats().waiting == self.waiting)
        return future

    def unary(self, request: bytes = b"x", **options: Any) -> Any:
        return self.begin(self.pool.method("Unary"), request, **options)

    def make_room(self) -> None:
        self.flavour.cancel(self.streams.pop(0))
        self.waiting -= 1

    def end(self) -> None:
        for stream in self.streams:
            self.flavour.cancel(stream)
        until(lambda: self.pool.stats().in_flight == 0)
        fits_exactly(self.pool, self.capacity)


def fits_exactly(pool: Pool, capacity: int) -> None:
    """Fill an idle pool: as many RPCs as it has room for are let in, and not one more."""
    streams = [pool.begin_stream(metadata=ENDLESS) for _ in range(capacity)]
    stats = pool.stats()
    assert (stats.in_flight, stats.waiting) == (capacity, 0)
    with pytest.raises(grpcpool.PoolTimeout):
        pool.unary(timeout=0)
    for stream in streams:
        pool.flavour.cancel(stream)
    until(lambda: pool.stats().in_flight == 0)


@contextmanager
def full(flavour: Flavour, server: ServerProcess, size: int = 2, cap: int = 1, **options: Any) -> Iterator[Full]:
    # However slow the machine is: nobody is ejected, and nobody waits in vain.
    options = {"unresponsive_after": None, "acquire_timeout": 200.0, **options}
    with flavour.insecure(server.target, size=size, max_concurrent_streams=cap, **options) as pool:
        pool.wait_ready(min_ready=size)
        held = Full(pool, size * cap)
        yield held
        held.end()


def all_of(flavour: Flavour, callable_: Any) -> Callable[..., Any]:
    """Return what makes a streaming RPC and returns all its responses: a coroutine function for aio."""

    async def aio(request: Any, **options: Any) -> list[bytes]:
        return [message async for message in callable_(request, **options)]

    def sync(request: Any, **options: Any) -> list[bytes]:
        return list(callable_(request, **options))

    return aio if flavour.name == "aio" else sync


# --- waiting, and being served


def test_an_rpc_that_finds_every_member_full_waits_and_is_served(flavour: Flavour, server: ServerProcess) -> None:
    with full(flavour, server, size=2, cap=2) as held:
        future = held.unary(b"late")
        assert held.pool.stats().in_flight == 4
        assert not future.done()
        held.make_room()
        assert future.result(TIMEOUT) == b"late"
        stats = held.pool.stats()
        assert (stats.waiting, stats.waited, stats.refused) == (0, 1, 0)
        assert stats.waited_seconds > 0


@pytest.mark.parametrize("kind", ["Unary", "ServerStream", "ClientStream", "Bidi"])
def test_all_four_kinds_of_rpc_wait(flavour: Flavour, server: ServerProcess, kind: str) -> None:
    with full(flavour, server) as held:
        method = held.pool.method(kind)
        streams = kind in ("ServerStream", "Bidi")
        request: Any = iter([b"a", b"b"]) if kind in ("ClientStream", "Bidi") else b"s"
        metadata = (("count", "4"),) if kind == "ServerStream" else None
        future = held.begin(all_of(flavour, method) if streams else method, request, metadata=metadata)
        held.make_room()
        expected = {"Unary": b"s", "ServerStream": [b"s"] * 4, "ClientStream": b"ab", "Bidi": [b"a", b"b"]}
        assert future.result(TIMEOUT) == expected[kind]


def test_what_an_rpc_that_waited_ends_with_is_what_the_server_says(flavour: Flavour, server: ServerProcess) -> None:
    with full(flavour, server) as held:
        futures = [
            held.unary(metadata=(("code", "ABORTED"),)),
            held.begin(all_of(flavour, held.pool.method("ServerStream")), b"x", metadata=(("code", "ABORTED"),)),
        ]
        for future in futures:
            held.make_room()
            with pytest.raises(grpc.RpcError) as caught:
                future.result(TIMEOUT)
            assert caught.value.code() is grpc.StatusCode.ABORTED
            assert caught.value.details() == "as asked: ABORTED"
        assert held.pool.stats().failures == 2


def test_a_stream_holds_its_slot_until_it_ends(flavour: Flavour, server: ServerProcess) -> None:
    with flavour.insecure(server.target, size=1, max_concurrent_streams=1) as pool:
        pool.wait_ready()
        stream = pool.begin_stream(metadata=(("count", "3"), ("gap", "0.05")))
        future = flavour.in_background(pool.method("Unary"), b"x")
        until(lambda: pool.stats().waiting == 1)
        # Its status comes after its messages, and only to who has read them.
        for _ in range(3):
            assert not future.done()
            assert flavour.read(stream) == b"x"
        assert flavour.code(stream) is grpc.StatusCode.OK
        assert future.result(TIMEOUT) == b"x"
        until(lambda: pool.stats().in_flight == 0)
        fits_exactly(pool, 1)


def test_a_stream_that_waited_and_is_dropped_gives_its_slot_back(flavour: Flavour, server: ServerProcess) -> None:
    with full(flavour, server) as held:

        def begin() -> list[Any]:
            return [held.pool.raw.unary_stream(f"{ECHO}ServerStream")(b"x", metadata=ENDLESS)]

        if flavour.name == "aio":
            calls = flavour.on_loop(begin)
            until(lambda: held.pool.stats().waiting == 1)
            held.make_room()
        else:
            future = held.begin(begin)
            held.make_room()
            calls = future.result(TIMEOUT)
            del future
        until(lambda: held.pool.stats().waiting == 0)
        assert flavour.read(calls[0]) == b"x"
        del calls

        def given_back() -> bool:
            flavour.collect()
            return bool(held.pool.stats().in_flight == 1)

        until(given_back)


# --- those who wait in vain


@pytest.mark.parametrize(
    ("acquire_timeout", "timeout"), [(0.1, None), (None, 0.1), (0.1, 60), (60, 0.1), (0, 60), (60, 0), (60, -1)]
)
def test_whoever_waits_too_long_is_told_that_it_was_here(
    flavour: Flavour, server: ServerProcess, acquire_timeout: float | None, timeout: float | None
) -> None:
    with full(flavour, server, acquire_timeout=acquire_timeout, name="crowded") as held:
        started = time.monotonic()
        with pytest.raises(grpcpool.PoolTimeout) as caught:
            held.pool.unary(timeout=timeout)
        assert time.monotonic() - started < 30
        assert isinstance(caught.value, grpc.aio.AioRpcError if flavour.name == "aio" else grpc.RpcError)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        for words in ("'crowded'", "waited", "in the pool", "not sent", "max_concurrent_streams=1", "2 RPCs in flight"):
            assert words in caught.value.details()
        assert caught.value.details() in str(caught.value)
        stats = held.pool.stats()
        assert (stats.waiting, stats.refused, stats.failures) == (0, 1, 0)


def test_a_stream_that_waits_too_long_is_told_as_well(flavour: Flavour, server: ServerProcess) -> None:
    with full(flavour, server, acquire_timeout=0.05) as held:
        for begin in (
            held.pool.server_stream,
            lambda: held.pool.client_stream([b"a"]),
            lambda: held.pool.bidi([b"a"]),
        ):
            with pytest.raises(grpcpool.PoolTimeout) as caught:
                begin()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert held.pool.stats().refused == 3


def test_the_server_sees_what_is_left_of_the_deadline(flavour: Flavour, server: ServerProcess) -> None:
    with full(flavour, server) as held:
        endless = held.unary(metadata=DEADLINE)
        limited = held.unary(timeout=20, metadata=DEADLINE)
        # It waits by now: its time runs, and whatever this thread sleeps is taken from it.
        started = time.monotonic()
        time.sleep(0.5)
        waited = time.monotonic() - started
        held.make_room()
        held.make_room()
        assert float(limited.result(TIMEOUT)) <= 20 - waited + 0.1
        assert endless.result(TIMEOUT) == b""
        assert held.pool.unary(metadata=DEADLINE) == b""


def test_acquire_timeout_limits_the_waiting_and_not_the_rpc(flavour: Flavour, server: ServerProcess) -> None:
    with full(flavour, server, acquire_timeout=60.0) as held:
        futures = [held.unary(metadata=DEADLINE), held.unary(timeout=150, metadata=DEADLINE)]
        held.make_room()
        held.make_room()
        assert futures[0].result(TIMEOUT) == b""
        # Servers are told whole seconds of so long a time.
        assert 60 < float(futures[1].result(TIMEOUT)) <= 151


def test_when_too_many_wait_whoever_comes_is_refused_at_once(flavour: Flavour, server: ServerProcess) -> None:
    with full(flavour, server, size=2, cap=3, max_waiting=2, name="crowded") as held:
        futures = [held.unary(), held.unary()]
        kinds: list[Callable[[], object]] = [
            lambda: held.pool.unary(timeout=60),
            lambda: held.pool.server_stream(timeout=60),
            lambda: held.pool.client_stream([b"a"], timeout=60),
            lambda: held.pool.bidi([b"a"], timeout=60),
        ]
        for begin in kinds:
            started = time.monotonic()
            with pytest.raises(grpcpool.PoolFull) as caught:
                begin()
            assert time.monotonic() - started < 30
            assert isinstance(caught.value, grpc.aio.AioRpcError if flavour.name == "aio" else grpc.RpcError)
            assert isinstance(caught.value, grpcpool.PoolError)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            for words in ("'crowded'", "size 2", "max_concurrent_streams=3", "6 RPCs in flight", "2 more wait"):
                assert words in caught.value.details()
        stats = held.pool.stats()
        assert (stats.waiting, stats.waited, stats.refused, stats.failures) == (2, 2, 4, 0)
        held.make_room()
        held.make_room()
        assert [future.result(TIMEOUT) for future in futures] == [b"x", b"x"]


@pytest.mark.parametrize("grace", [None, TIMEOUT])
def test_close_ends_those_who_wait(flavour: Flavour, fault_server: FaultServer, grace: float | None) -> None:
    options: dict[str, Any] = {"size": 1, "max_concurrent_streams": 1, "unresponsive_after": None}
    pool = flavour.insecure(fault_server.target, name="closing", **options)
    pool.wait_ready()
    fault_server.hang()
    running = pool.begin_unary()
    futures = [flavour.in_background(pool.method("Unary"), b"x") for _ in range(3)]
    futures.append(flavour.in_background(all_of(flavour, pool.method("ServerStream")), b"x"))
    until(lambda: pool.stats().waiting == 4)
    closing = flavour.in_background(pool.raw.close, grace)
    for future in futures:
        with pytest.raises(grpcpool.PoolClosed) as caught:
            future.result(TIMEOUT)
        assert isinstance(caught.value, grpc.aio.AioRpcError if flavour.name == "aio" else grpc.RpcError)
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        for words in ("'closing'", "closed while", "not sent"):
            assert words in caught.value.details()
    if grace:
        # Without it, what is running is cancelled a moment after those who wait have been told.
        fault_server.heal()
    closing.result(TIMEOUT)
    assert flavour.code(running) is (grpc.StatusCode.OK if grace else grpc.StatusCode.CANCELLED)
    stats = pool.stats()
    assert (stats.in_flight, stats.waiting) == (0, 0)


# --- where an RPC comes from


def test_whoever_calls_a_full_member_is_served_by_another(flavour: Flavour, server: ServerProcess) -> None:
    with flavour.insecure(server.target, size=2, max_concurrent_streams=1) as pool:
        pool.wait_ready(min_ready=2)
        channel = pool.get_channel()
        stream = flavour.begin(pool.method("ServerStream", channel), b"x", metadata=ENDLESS)
        (busy,) = [member.id for member in pool.stats().members if member.in_flight]
        assert pool.unary(b"y", on=channel) == b"y"
        until(lambda: pool.stats().in_flight == 1)
        assert {member.id: member.calls for member in pool.stats().members} == {busy: 1, 1 - busy: 1}
        others = pool.begin_stream(metadata=ENDLESS)
        future = flavour.in_background(pool.method("Unary", channel), b"z")
        until(lambda: pool.stats().waiting == 1)
        flavour.cancel(others)
        assert future.result(TIMEOUT) == b"z"
        flavour.cancel(stream)


def test_rpcs_with_affinity_keys_wait_too(flavour: Flavour, server: ServerProcess) -> None:
    with full(flavour, server, size=3, strategy="consistent_hash", affinity_header="key") as held:
        futures = [held.unary(metadata=(("key", f"user {number}"),)) for number in range(3)]
        stream = held.begin(
            all_of(flavour, held.pool.method("ServerStream")), b"x", metadata=(("key", "user 1"), ("count", "2"))
        )
        for _ in range(3):
            held.make_room()
        assert [future.result(TIMEOUT) for future in futures] == [b"x"] * 3
        assert stream.result(TIMEOUT) == [b"x"] * 2
        held.waiting = 0
        until(lambda: held.pool.stats().in_flight == 0)
        # What the key stands for is kept to wherever that has room.
        before = {member.id: member.calls for member in held.pool.stats().members}
        for _ in range(4):
            held.pool.unary(metadata=(("key", "user 1"),))
        after = {member.id: member.calls for member in held.pool.stats().members}
        assert sorted(after[member] - before[member] for member in after) == [0, 0, 4]


def test_metadata_and_call_credentials_go_along(flavour: Flavour, make_server: MakeServer, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    server = make_server(**certificates.server.as_server())

    def sign(context: Any, callback: Any) -> None:
        callback((("count", "5"),), None)

    credentials = grpc.metadata_call_credentials(sign)
    with flavour.secure(
        server.target, certificates.channel_credentials(), size=1, max_concurrent_streams=1, acquire_timeout=15
    ) as pool:
        pool.wait_ready()
        held = Full(pool, 1)
        future = held.begin(
            all_of(flavour, pool.method("ServerStream")), b"x", metadata=(("gap", "0.01"),), credentials=credentials
        )
        held.make_room()
        assert future.result(TIMEOUT) == [b"x"] * 5
        held.end()


# --- order


def numbered(pool: Pool, order: list[int]) -> Any:
    """Return a unary method whose requests are numbers, each noted when the RPC begins in earnest."""

    def serialize(number: int) -> bytes:
        order.append(number)
        return b"%d" % number

    return pool.flavour.call(pool.raw.unary_unary, f"{ECHO}Unary", serialize, int)


def test_those_who_wait_are_served_in_the_order_in_which_they_came(flavour: Flavour, server: ServerProcess) -> None:
    order: list[int] = []
    with full(flavour, server, size=1) as held:
        method = numbered(held.pool, order)
        futures = [held.begin(method, number) for number in range(16)]
        held.make_room()
        held.capacity = 1
        assert [future.result(TIMEOUT) for future in futures] == list(range(16))
        assert order == list(range(16))
