"""Bugs that pools are known for, one test each: those in how a pool deals with its calls."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool.strategies import Member, Picker, RoundRobin
from grpcpool.testing import ECHO, FaultServer, ServerProcess

from ..integration.flavours import Flavour, Pool
from ..integration.lifecycle import endless
from ..integration.waiting import until

pytestmark = pytest.mark.integration

# Much longer than anything here takes, and much shorter than for ever.
LONG = 60.0


def balanced(pool: Pool, in_flight: int = 0) -> bool:
    pool.flavour.collect()
    found: int = pool.stats().in_flight
    return found == in_flight


def test_in_flight_leaked_by_an_abandoned_stream(flavour: Flavour, server: ServerProcess) -> None:
    """Streams that nobody reads to the end use a pool up, until every call waits for room that nobody occupies."""
    with flavour.insecure(server.target, size=2, max_concurrent_streams=1, acquire_timeout=LONG) as pool:
        pool.wait_ready(min_ready=2)
        for _ in range(3):
            # One that was read for a while, and one that nobody has even looked at.
            streams = [endless(pool), pool.begin_stream(metadata=(("count", "100000"), ("gap", "0.02")))]
            assert pool.stats().in_flight == 2
            del streams
            flavour.collect()
            # Both members were full, so it can only come through where a stream was given up.
            assert pool.unary(timeout=LONG) == b"x"
        until(lambda: balanced(pool))


def test_counted_down_twice(flavour: Flavour, server: ServerProcess, faulty: FaultServer) -> None:
    """A call that ends in two ways at once takes another one off the books, and that is closed while it runs."""
    faulty.hang()
    with flavour.insecure(faulty.target, size=1) as pool:
        pool.wait_ready()
        steady = pool.begin_unary(timeout=LONG)
        # Deadline, cancel, cancel again, and no more references, all at about the same time.
        for _ in range(40):
            call = pool.begin_unary(timeout=0.02)
            faulty.wait_for(lambda: faulty.in_flight >= 1)
            flavour.cancel(call)
            flavour.cancel(call)
            del call
        until(lambda: balanced(pool, 1))
        # A member that is believed to be idle is closed as soon as it leaves.
        pool.resize(2)
        pool.resize(1)
        assert pool.stats().in_flight == 1
        faulty.heal()
        assert flavour.finish(steady) == b"x"
        until(lambda: balanced(pool))


class LeavesBetween(RoundRobin):
    """Has the member that it has just chosen taken away and closed, before anybody can use it."""

    def __init__(self) -> None:
        self.take_away: Callable[[], object] | None = None
        # Who, and how many calls had begun there by then.
        self.victims: list[tuple[Member, int]] = []

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Callable[[], float]) -> Picker:
        def pick() -> Member:
            if self.take_away is None:
                return usual()
            take_away, self.take_away = self.take_away, None
            victim = max(members, key=lambda member: member.id)
            take_away()
            self.victims.append((victim, victim.picks))
            return victim

        usual = super().build(members, rng=rng, clock=clock)
        return pick


def test_picked_between_draining_and_closing(flavour: Flavour, server: ServerProcess) -> None:
    """A call that was just given a member which leaves at that moment ends CANCELLED, or in an error about a channel
    that is closed: with every resize some calls fail."""
    strategy = LeavesBetween()
    with flavour.insecure(server.target, size=4, strategy=strategy) as pool:
        pool.wait_ready(min_ready=4)
        shrink = {"sync": lambda: pool.raw.scale_down(1), "aio": lambda: at_once(pool.raw.scale_down(1))}[flavour.name]
        for call, answer in (
            (lambda: pool.unary(timeout=LONG), b"x"),
            (lambda: pool.server_stream(timeout=LONG), [b"x"] * 3),
            (lambda: pool.bidi([b"x"] * 2, timeout=LONG), [b"x"] * 2),
        ):
            until(lambda: balanced(pool))
            strategy.take_away = shrink
            assert call() == answer
        assert pool.stats().size == 1
        assert len(strategy.victims) == 3
        assert all(victim.retired and victim.picks == before for victim, before in strategy.victims)
        until(lambda: balanced(pool))


def at_once(coroutine: Any) -> None:
    """Run a coroutine that has nothing to wait for, in the middle of something on the same loop."""
    with contextlib.suppress(StopIteration):
        coroutine.send(None)
        raise AssertionError("it waits for something")


def test_grace_that_cancels_live_calls(flavour: Flavour, server: ServerProcess) -> None:
    """Members are let go with a grace for their last calls, and what takes longer than that is cut off: downloads break
    every time that a connection is replaced because of its age."""
    with flavour.insecure(server.target, size=2, max_lifetime=0.2) as pool:
        pool.wait_ready(min_ready=2)
        streams = [pool.begin_stream(metadata=(("count", "8"), ("gap", "0.2"))) for _ in range(4)]
        for stream in streams:
            assert [flavour.read(stream) for _ in range(8)] == [b"x"] * 8
        assert [flavour.code(stream) for stream in streams] == [grpc.StatusCode.OK] * 4
        # The members that they ran on were replaced long before they were over.
        until(lambda: pool.stats().recycled >= 4)
        until(lambda: balanced(pool))


IDEMPOTENT = {"idempotent": "*"}
PATHS: dict[str, dict[str, Any]] = {
    "plain": {},
    "waits in line": {"max_concurrent_streams": 1},
    "retried": {**IDEMPOTENT, "retry": grpcpool.Retry(attempts=5, backoff_min=1.0, backoff_max=5.0)},
    "hedged": {**IDEMPOTENT, "hedge_after": 0.05},
    "not connected": {},
}


@pytest.mark.parametrize("path", PATHS)
def test_a_deadline_that_is_never_applied(flavour: Flavour, faulty: FaultServer, path: str) -> None:
    """Calls that were given half a second hang for as long as the server does, and their callers with them."""
    faulty.hang()
    if path == "not connected":
        faulty.kill()
    with flavour.insecure(faulty.target, size=2, **PATHS[path]) as pool:
        if path != "not connected":
            pool.wait_ready(min_ready=2)
        filling = [pool.begin_unary(timeout=LONG) for _ in range(2)] if path == "waits in line" else []
        faulty.wait_for(lambda: faulty.in_flight >= len(filling))
        started = time.monotonic()
        for begin in (pool.unary, pool.server_stream, lambda **options: pool.client_stream([b"x"], **options)):
            with pytest.raises(grpc.RpcError) as caught:
                begin(timeout=0.3, wait_for_ready=True)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0.8 < time.monotonic() - started < LONG

        # The server is told of it too. (grpc rounds up.)
        def told() -> list[float | None]:
            # Not by those that fill the pool, nor by pings.
            found = [request.timeout for request in faulty.requests if request.method.startswith(ECHO)]
            return [timeout for timeout in found if timeout != pytest.approx(LONG, abs=2)]

        if path in ("waits in line", "not connected"):
            assert told() == []
        else:
            until(lambda: len(told()) > 0)
        assert all(timeout is not None and 0 < timeout < 0.4 for timeout in told())
        for call in filling:
            flavour.cancel(call)
        until(lambda: balanced(pool))
