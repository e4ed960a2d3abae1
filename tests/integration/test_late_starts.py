"""RPCs that have their lease, and whose channel is closed before they begin: by themselves they never end like that."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool.core.connectivity import Connectivity
from grpcpool.core.messages import Observed
from grpcpool.strategies import Member, Picker, RoundRobin
from grpcpool.testing import ECHO, FaultServer

from .waiting import LIMIT, connections, until

pytestmark = pytest.mark.integration


def all_of(call: Any) -> bytes:
    """Return the message that all of a stream's are."""
    (message,) = set(call)
    assert isinstance(message, bytes)
    return message


ENDINGS: dict[str, Callable[[Any], object]] = {
    "unary": lambda pool: pool.unary_unary(f"{ECHO}Unary")(b"x"),
    "registered": lambda pool: pool.unary_unary(f"{ECHO}Unary", _registered_method=True)(b"x"),
    "with_call": lambda pool: pool.unary_unary(f"{ECHO}Unary").with_call(b"x")[0],
    "future": lambda pool: pool.unary_unary(f"{ECHO}Unary").future(b"x").result(),
    "server stream": lambda pool: all_of(pool.unary_stream(f"{ECHO}ServerStream")(b"x")),
    "client stream": lambda pool: pool.stream_unary(f"{ECHO}ClientStream")(iter([b"x"])),
    "bidi": lambda pool: all_of(pool.stream_stream(f"{ECHO}Bidi")(iter([b"x"]))),
}
OPTIONS: list[dict[str, Any]] = [{}, {"idempotent": "*", "retry": grpcpool.Retry(), "hedge_after": 10.0}]
DRAINED: dict[str, Any] = {"drain_timeout": 0.6}


def replace(pool: Any, port: int) -> None:
    """Have the pool replace its member, and return when that has gone, and its channel is closed."""
    (member,) = pool._engine.machine.slots
    # As if it had been seen like that: then it drains for as long as it may, and no longer.
    pool._room.tell(Observed(member, Connectivity.SHUTDOWN))
    until(lambda: [each.state for each in pool.stats().members if each.id != member.id] == ["ready"])
    until(lambda: member not in pool._engine.machine.slots)
    until(lambda: connections(port) == 1)


class Interrupted(RoundRobin):
    """Lets something happen when an RPC has its lease, and goes on when that is over; once.

    Attributes:
        then: what happens, in another thread.
    """

    then: Callable[[], object] | None = None

    def meter(self, member: Member) -> Meter:
        """Return what the member's RPCs tell that they begin."""
        return Meter(self)

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Callable[[], float]) -> Picker:
        """As it is inherited; here to be of one kind with the protocol."""
        return super().build(members, rng=rng, clock=clock)


class Meter:
    """Notes nothing."""

    def __init__(self, strategy: Interrupted) -> None:
        self._strategy = strategy

    def started(self, now: float, timed: bool) -> None:
        then, self._strategy.then = self._strategy.then, None
        if then is not None:
            with ThreadPoolExecutor(1) as thread:
                thread.submit(then).result(LIMIT)

    def answered(self, now: float, latency: float | None) -> None: ...

    failed = dropped = answered


@pytest.mark.parametrize("used", [False, True], ids=["for the first time", "used before"])
@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("options", OPTIONS, ids=["", "retried"])
def test_a_pool_that_is_closed_under_it(how: str, used: bool, options: dict[str, Any]) -> None:
    strategy = Interrupted()
    with (
        FaultServer() as server,
        grpcpool.insecure_channel(server.target, size=2, strategy=strategy, **options) as pool,
    ):
        pool.wait_ready(min_ready=2)
        for _ in range(2 * used):
            assert ENDINGS[how](pool) == b"x"
        strategy.then = lambda: pool.close(0)
        with pytest.raises(grpcpool.PoolClosed, match="is closed"):
            ENDINGS[how](pool)
        assert pool.stats().in_flight == 0


@pytest.mark.parametrize("used", [False, True], ids=["for the first time", "used before"])
@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("options", OPTIONS, ids=["", "retried"])
def test_a_member_that_is_closed_under_it(how: str, used: bool, options: dict[str, Any]) -> None:
    strategy = Interrupted()
    with (
        FaultServer() as server,
        grpcpool.insecure_channel(server.target, size=1, strategy=strategy, **DRAINED, **options) as pool,
    ):
        pool.wait_ready()
        for _ in range(2 * used):
            assert ENDINGS[how](pool) == b"x"
        strategy.then = lambda: replace(pool, server.port)
        assert ENDINGS[how](pool) == b"x"
        assert strategy.then is None
        until(lambda: pool.stats().in_flight == 0)


def test_metadata_that_are_wrong_are_so_elsewhere_too() -> None:
    strategy = Interrupted()
    with (
        FaultServer() as server,
        grpcpool.insecure_channel(server.target, size=1, strategy=strategy, **DRAINED) as pool,
    ):
        pool.wait_ready()
        strategy.then = lambda: replace(pool, server.port)
        with pytest.raises(grpc.RpcError, match="Invalid metadata"):
            pool.unary_unary(f"{ECHO}Unary")(b"x", metadata=(("Not allowed", "x"),))
        assert strategy.then is None
        assert server.calls == 0


@pytest.mark.parametrize("kind", ["unary", "server stream"])
def test_an_aio_pool_that_is_closed_when_it_was_just_let_in(kind: str) -> None:
    async def comes_true(condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(0)

    async def main() -> None:
        with FaultServer() as server:
            server.hang()
            pool = grpcpool.aio.insecure_channel(server.target, size=1, max_concurrent_streams=1, acquire_timeout=10)
            await pool.wait_ready()
            first = pool.unary_unary(f"{ECHO}Unary")(b"x")
            await asyncio.to_thread(server.wait_for, lambda: server.in_flight == 1)
            if kind == "unary":
                second = asyncio.ensure_future(_awaited(pool.unary_unary(f"{ECHO}Unary")(b"x")))
            else:
                second = asyncio.ensure_future(_awaited(pool.unary_stream(f"{ECHO}ServerStream")(b"x").read()))
            await comes_true(lambda: pool.stats().waiting == 1)
            first.cancel()
            await comes_true(lambda: pool.stats().waiting == 0)
            await pool.close(0)
            with pytest.raises(grpcpool.PoolClosed):
                await second

    async def _awaited(call: Any) -> object:
        return await call

    asyncio.run(main())
