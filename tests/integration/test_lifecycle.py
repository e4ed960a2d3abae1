"""How a pool grows, shrinks, renews its members, primes them and ends: specified once and shown of both pools."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
import psutil
import pytest

import grpcpool
from grpcpool import events
from grpcpool.core.messages import Resize
from grpcpool.testing import ECHO, ServerProcess

from .flavours import Flavour, Pool
from .test_under_load import Load, load
from .waiting import connections, pool_threads, until

pytestmark = pytest.mark.integration

MakeServer = Callable[..., ServerProcess]
MakePrimer = Callable[..., "Primer"]
E = TypeVar("E", bound=events.Event)

# A grace or timeout that no test means to see the end of, and what "at once" means beside it, in seconds: somewhat
# more than the time that is granted to user code that clings to its life.
LONG = 15.0
AT_ONCE = 7.0


def in_background(pool: Pool, count: int, *, delay: float) -> list[Any]:
    """Make unary RPCs that may have to wait in line, and return their futures."""
    method, metadata = pool.method("Unary"), (("delay", str(delay)),)
    return [pool.flavour.in_background(method, b"x", metadata=metadata, timeout=LONG) for _ in range(count)]


def endless(pool: Pool) -> Any:
    """Return a stream that has begun, and does not end by itself."""
    stream = pool.begin_stream(metadata=(("count", "100000"), ("gap", "0.02")))
    assert pool.flavour.read(stream) == b"x"
    return stream


def of(kind: type[E], heard: list[events.Event]) -> list[E]:
    """Return the events of that kind."""
    return [event for event in heard.copy() if isinstance(event, kind)]


def states(pool: Pool) -> list[str]:
    return sorted(member.state for member in pool.stats().members)


def in_size(pool: Pool, server: ServerProcess, size: int) -> float:
    """Wait until the pool and the operating system agree on the size."""
    return until(lambda: pool.stats().size == len(pool.stats().members) == connections(server.port) == size)


def local_ports(server: ServerProcess) -> set[int]:
    """Return this process's ends of its connections to the server."""
    found = psutil.Process().net_connections(kind="tcp")
    return {c.laddr.port for c in found if c.raddr and c.raddr.port == server.port}


class Primer:
    """A primer for either pool: makes an RPC, and then waits for `gate` if that is closed.

    Attributes:
        runs: how often it was called.
        answers: what its RPCs brought.
        failures: so many runs raise, beginning with the first.
        stuck: so many runs never return, beginning with the first.
        habit: how: one waits for something else, one for its RPC, and one clings to its life when it is cancelled.
        over: ends those that never return, for the test is over.
    """

    def __init__(self, *, failures: int = 0, stuck: int = 0, habit: str = "waits") -> None:
        self.runs = 0
        self.answers: list[bytes] = []
        self.failures = failures
        self.stuck = stuck
        self.habit = habit
        self.gate, self.over = threading.Event(), threading.Event()
        self.gate.set()

    def _begin(self) -> tuple[threading.Event | None, Any]:
        """Return what to wait for instead of an RPC, and the metadata of that RPC."""
        self.runs += 1
        if self.runs <= self.failures:
            raise LookupError(f"{self.runs} is not enough")
        if self.runs > self.stuck:
            return None, ()
        return (None, (("delay", "30"),)) if self.habit == "calls" else (self.over, ())

    def sync(self, channel: Any) -> None:
        instead, metadata = self._begin()
        if instead is None:
            self.answers.append(channel.unary_unary(f"{ECHO}Unary")(b"warm", metadata=metadata))
        (instead or self.gate).wait()

    async def aio(self, channel: Any) -> None:
        instead, metadata = self._begin()
        if instead is None:
            self.answers.append(await channel.unary_unary(f"{ECHO}Unary")(b"warm", metadata=metadata))
        while not (instead or self.gate).is_set():
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                if self.habit != "clings":
                    raise


@pytest.fixture
def make_primer() -> Iterator[Callable[..., Primer]]:
    """Primers that end with the test at the latest."""
    made: list[Primer] = []

    def make(**options: Any) -> Primer:
        made.append(Primer(**options))
        return made[-1]

    yield make
    for primer in made:
        primer.gate.set()
        primer.over.set()


class SyncCount(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    calls = 0

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.calls += 1
        return continuation(client_call_details, request)


class AioCount(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    calls = 0

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.calls += 1
        return await continuation(client_call_details, request)


COUNTS: dict[str, Any] = {"sync": SyncCount, "aio": AioCount}


# --- a size that follows the load


def test_a_burst_makes_the_pool_grow_and_quiet_makes_it_shrink(flavour: Flavour, make_server: MakeServer) -> None:
    # The server would refuse what goes above its own limit.
    server = make_server(options={"grpc.max_concurrent_streams": 8})
    heard: list[events.Event] = []
    sizes: dict[str, Any] = {"min_size": 1, "max_size": 8, "scale_down_interval": 0.1}
    with flavour.insecure(server.target, max_concurrent_streams=4, listeners=heard.append, **sizes) as pool:
        pool.wait_ready()
        calls = in_background(pool, 240, delay=0.1)
        until(lambda: pool.stats().size == 8)
        assert [call.result(LONG) for call in calls] == [b"x"] * 240
        in_size(pool, server, 1)
        stats = pool.stats()
    steps = [1, *(event.new_size for event in of(events.ScaledUp, heard))]
    assert steps[-1] == 8
    assert all(before < after <= 2 * before for before, after in itertools.pairwise(steps))
    down = of(events.ScaledDown, heard)
    assert [event.new_size for event in down] == [6, 5, 4, 3, 2, 1], "a quarter at a time, but one at least"
    assert (stats.min_size, stats.max_size, stats.grown, stats.shrunk, stats.drained) == (1, 8, 7, 7, 7)
    # One that came before the server had counted the end of another is refused there, and sent again.
    assert stats.calls - stats.failures == 240
    assert (stats.waiting, stats.refused, stats.in_flight) == (0, 0, 0)
    assert stats.waited >= 100
    assert stats.waited_seconds > 0
    why = {decision.what: decision.reason for decision in stats.decisions}
    assert "size 8: " in why["ScaledUp"]
    assert "are enough" in why["ScaledUp"]
    assert why["ScaledDown"] == "size 1: no more than 0 RPCs ran on 2 members for 0.1 s"
    assert "RPCs wait" in why["Saturated"]
    assert sum(event.cancelled for event in of(events.Drained, heard)) == 0


def test_a_size_that_the_load_asks_for_stays_within_its_band(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server()
    sizes: dict[str, Any] = {"min_size": 1, "max_size": 8, "target_in_flight": (2, 6), "scale_down_interval": 0.1}
    with flavour.insecure(server.target, **sizes) as pool:
        pool.wait_ready()
        calls = in_background(pool, 12, delay=1.0)
        # Six on each of two is the upper edge, and that for much longer than it would take to shrink.
        assert [call.result(LONG) for call in calls] == [b"x"] * 12
        assert pool.stats().grown == 1
        in_size(pool, server, 1)
        assert (pool.stats().grown, pool.stats().shrunk) == (1, 1)


def test_rpcs_that_wait_do_not_depend_on_the_new_member(flavour: Flavour, make_server: MakeServer) -> None:
    servers = [make_server(), make_server()]
    with flavour.insecure([each.target for each in servers], min_size=2, max_size=4, max_concurrent_streams=1) as pool:
        pool.wait_ready(min_ready=2)
        servers[1].pause()
        calls = in_background(pool, 8, delay=0.05)
        until(lambda: "connecting" in states(pool))
        # All but the one that is stuck on the frozen server.
        until(lambda: sum(call.done() for call in calls) == 7)
        frozen = [member for member in pool.stats().members if member.endpoint == servers[1].target]
        assert [(member.state, member.calls) for member in frozen] == [("ready", 1), ("connecting", 0)]
        servers[1].resume()
        assert [call.result(LONG) for call in calls] == [b"x"] * 8


def test_a_new_member_is_picked_only_when_it_is_connected_and_primed(
    flavour: Flavour, make_server: MakeServer, make_primer: MakePrimer
) -> None:
    server = make_server()
    primer = make_primer()
    with flavour.insecure(server.target, min_size=1, max_size=2, primer=getattr(primer, flavour.name)) as pool:
        pool.wait_ready()
        primer.gate.clear()
        server.pause()
        growing = flavour.in_background(pool.raw.scale_up, 1)
        until(lambda: states(pool) == ["connecting", "ready"])
        calls = in_background(pool, 10, delay=0)
        until(lambda: pool.stats().in_flight == 10)
        assert [member.calls for member in pool.stats().members] == [10, 0], "connecting"
        server.resume()
        until(lambda: states(pool) == ["priming", "ready"])
        assert [call.result(LONG) for call in calls + in_background(pool, 10, delay=0)] == [b"x"] * 20
        assert [member.calls for member in pool.stats().members] == [20, 0], "priming"
        assert pool.status().current_size == 1
        primer.gate.set()
        assert growing.result(LONG) == 2
        for _ in range(4):
            pool.unary()
        assert [member.calls for member in pool.stats().members] == [22, 2]


def test_a_resize_by_hand_moves_the_bounds(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server()
    sizes: dict[str, Any] = {"min_size": 2, "max_size": 4, "scale_down_interval": 0.05}
    with flavour.insecure(server.target, **sizes) as pool:
        pool.wait_ready(min_ready=2)
        assert pool.resize(6) == 6
        assert (pool.stats().min_size, pool.stats().max_size) == (2, 6)
        in_size(pool, server, 2)
        assert pool.resize(1) == 1
        assert (pool.stats().min_size, pool.stats().max_size) == (1, 6)
        assert pool.unary() == b"x"
        in_size(pool, server, 1)
        assert "size 6: it was asked for" in {decision.reason for decision in pool.stats().decisions}


def test_a_line_that_is_full_or_too_slow_refuses_and_counts(flavour: Flavour, server: ServerProcess) -> None:
    with flavour.insecure(server.target, size=1, max_concurrent_streams=1, max_waiting=1) as pool:
        pool.wait_ready()
        stream = endless(pool)
        waiting = in_background(pool, 1, delay=0)
        until(lambda: pool.stats().waiting == 1)
        with pytest.raises(grpc.RpcError) as caught:
            pool.unary()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        flavour.cancel(stream)
        assert waiting[0].result(LONG) == b"x"
        stream = endless(pool)
        with pytest.raises(grpc.RpcError) as caught:
            pool.unary(timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        stats = pool.stats()
        assert (stats.waiting, stats.waited, stats.refused) == (0, 2, 2)
        assert stats.waited_seconds >= 0.1
        flavour.cancel(stream)


def test_idle_members_above_the_least_leave_and_busy_ones_stay(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server()
    # A band that never asks for less.
    sizes: dict[str, Any] = {"min_size": 1, "max_size": 4, "target_in_flight": (0, 100)}
    with flavour.insecure(server.target, max_idle=0.2, **sizes) as pool:
        assert pool.resize(4) == 4
        stream = endless(pool)
        (busy,) = [member.id for member in pool.stats().members if member.in_flight]
        in_size(pool, server, 1)
        assert [member.id for member in pool.stats().members] == [busy]
        assert flavour.read(stream) == b"x"
        flavour.cancel(stream)
        assert pool.stats().shrunk == 3
        reasons = [decision.reason for decision in pool.stats().decisions if decision.what == "ScaledDown"]
        assert len(reasons) == 3
        assert all("was idle for 0.2 s" in reason for reason in reasons)


# --- age


def test_members_are_replaced_under_load_and_no_call_notices(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server()
    heard: list[events.Event] = []
    with flavour.insecure(
        server.target, size=4, max_lifetime=0.4, listeners=heard.append, telemetry_sample_rate=0
    ) as pool:
        pool.wait_ready(min_ready=4)
        with load(pool, 6) as running:
            until(lambda: pool.stats().recycled >= 16)
        assert running.errors == []
        assert running.calls > 50
        until(lambda: pool.stats().in_flight == 0)
        until(lambda: connections(server.port) == 4)
        stats = pool.stats()
        assert stats.size == 4
        assert stats.recycled - 2 <= stats.drained <= stats.recycled
    assert sum(event.cancelled for event in of(events.Drained, heard)) == 0
    assert of(events.ConnectionDown, heard) == []
    ages = [event.age for event in of(events.Recycled, heard)]
    assert min(ages) >= 0.36, "not more than a tenth before its time"
    assert {event.reason for event in of(events.Recycled, heard)} == {"max_lifetime of 0.4 s has passed"}
    until(lambda: connections(server.port) == 0)
    until(lambda: pool_threads() == [])


def test_replacements_have_the_options_and_interceptors(flavour: Flavour, server: ServerProcess) -> None:
    options = [("grpc.max_receive_message_length", 100)]
    count = COUNTS[flavour.name]()
    with flavour.insecure(server.target, options, interceptors=[count], size=2, max_lifetime=0.2) as pool:
        pool.wait_ready(min_ready=2)
        until(lambda: min(member.id for member in pool.stats().members) >= 2)
        for number in range(4):
            assert pool.unary() == b"x"
            assert count.calls == 2 * number + 1
            with pytest.raises(grpc.RpcError) as caught:
                pool.unary(b"x" * 200)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_long_stream_keeps_the_old_member(flavour: Flavour, server: ServerProcess) -> None:
    with flavour.insecure(server.target, size=1, max_lifetime=0.2) as pool:
        pool.wait_ready()
        stream = endless(pool)
        until(lambda: pool.stats().recycled >= 3)
        oldest = pool.stats().members[0]
        assert (oldest.id, oldest.state, oldest.in_flight) == (0, "draining", 1)
        assert flavour.read(stream) == b"x"
        flavour.cancel(stream)
        until(lambda: pool.stats().members[0].id != 0)


def test_drain_timeout_cancels_what_lasts_and_says_how_much(flavour: Flavour, server: ServerProcess) -> None:
    heard: list[events.Event] = []
    with flavour.insecure(server.target, size=1, max_lifetime=0.2, drain_timeout=0.3, listeners=heard.append) as pool:
        pool.wait_ready()
        streams = [endless(pool) for _ in range(3)]
        until(lambda: any(event.member == 0 for event in of(events.Drained, heard)))
        assert [flavour.code(stream) for stream in streams] == [grpc.StatusCode.CANCELLED] * 3
        (drained,) = [event for event in of(events.Drained, heard) if event.member == 0]
        assert (drained.cancelled, drained.reason) == (3, "max_lifetime of 0.2 s has passed")
        assert drained.duration >= 0.3
        until(lambda: pool.stats().in_flight == 0)
        decided = [decision.reason for decision in pool.stats().decisions if decision.what == "Drained"]
        assert "member 0: max_lifetime of 0.2 s has passed; 3 RPCs were cancelled" in decided
        assert pool.unary() == b"x"


def test_a_member_that_cannot_be_replaced_serves_on(
    flavour: Flavour, server: ServerProcess, make_primer: MakePrimer
) -> None:
    heard: list[events.Event] = []
    options: dict[str, Any] = {"max_lifetime": 0.1, "connect_timeout": 0.3, "listeners": heard.append}
    primer = make_primer()
    with flavour.insecure(
        server.target, size=1, primer=getattr(primer, flavour.name), primer_timeout=0.2, **options
    ) as pool:
        pool.wait_ready()
        primer.stuck = 1000
        until(lambda: of(events.Drained, heard))
        assert "it could not replace member" in of(events.Drained, heard)[0].reason
        assert pool.unary() == b"x"
        assert pool.status().status == "healthy"


def test_a_server_that_ends_old_connections_costs_no_call(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server(options={"grpc.max_connection_age_ms": 1000})
    with flavour.insecure(server.target, size=4) as pool:
        pool.wait_ready(min_ready=4)
        seen: set[int] = set()
        with load(pool, 4) as running:
            # Two more connections for each member; it may have one again before anybody has looked.
            until(lambda: seen.update(local_ports(server)) or len(seen) >= 12)
        assert running.errors == []
        assert running.calls > 50


def test_everything_at_once_costs_no_call(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server(options={"grpc.max_connection_age_ms": 1000})
    heard: list[events.Event] = []
    chance = random.Random(3)
    options: dict[str, Any] = {"max_concurrent_streams": 2, "max_lifetime": 0.3, "max_idle": 0.2}
    with flavour.insecure(
        server.target, min_size=1, max_size=4, scale_down_interval=0.1, listeners=heard.append, **options
    ) as pool:
        pool.wait_ready()
        with load(pool, 8) as running:
            until(lambda: pool.stats().size >= 4)
            for _ in range(12):
                before = pool.stats().recycled
                try:
                    pool.resize(chance.randint(1, 6))
                except grpcpool.ScalingError as problem:
                    assert "already scaling" in str(problem)  # noqa: PT017
                until(lambda before=before: pool.stats().recycled > before)
        assert running.errors == []
        assert running.calls > 50
        assert sum(event.cancelled for event in of(events.Drained, heard)) == 0
        until(lambda: pool.stats().in_flight == 0)
        in_size(pool, server, 1)
        assert pool.stats().maintenance_errors == 0


# --- priming


def test_the_primer_has_a_working_channel_of_each_new_member(
    flavour: Flavour, server: ServerProcess, make_primer: MakePrimer
) -> None:
    primer, count = make_primer(), COUNTS[flavour.name]()
    with flavour.insecure(
        server.target, size=3, interceptors=[count], primer=getattr(primer, flavour.name), max_lifetime=LONG
    ) as pool:
        pool.wait_ready(min_ready=3)
        assert primer.answers == [b"warm"] * 3
        assert count.calls == 3, "interceptors apply"
        assert pool.scale_up(2) == 5
        assert (primer.runs, count.calls) == (5, 5)
        assert pool.stats().calls == 0, "a primer's RPCs are none of the pool's"


def test_a_primer_that_raises_is_called_again(
    flavour: Flavour, server: ServerProcess, caplog: pytest.LogCaptureFixture, make_primer: MakePrimer
) -> None:
    heard: list[events.Event] = []
    primer = make_primer(failures=2)
    with (
        caplog.at_level(logging.ERROR, "grpcpool"),
        flavour.insecure(
            server.target, size=1, primer=getattr(primer, flavour.name), backoff_min=0.1, listeners=heard.append
        ) as pool,
    ):
        pool.wait_ready()
        assert primer.runs == 3
        assert pool.unary() == b"x"
    failed = of(events.PrimerFailed, heard)
    assert [(event.attempt, event.error) for event in failed] == [
        (1, "the primer raised LookupError"),
        (2, "the primer raised LookupError"),
    ]
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == 2
    assert all("the primer raised" in text and "LookupError" in text for text in logged)
    assert not any("1 is not enough" in text for text in logged), "what it says may be a secret"


def test_a_primer_that_never_returns_is_given_up(
    flavour: Flavour, make_server: MakeServer, make_primer: MakePrimer
) -> None:
    server = make_server()
    heard: list[events.Event] = []
    primer = make_primer(stuck=2)
    with flavour.insecure(
        server.target,
        size=2,
        primer=getattr(primer, flavour.name),
        primer_timeout=0.2,
        backoff_min=0.1,
        listeners=heard.append,
    ) as pool:
        assert pool.unary() == b"x", "while no member is ready, RPCs do not wait for it"
        pool.wait_ready(min_ready=2)
        assert {event.error for event in of(events.PrimerFailed, heard)} == {"the primer did not return within 0.2 s"}
        assert primer.answers == [b"warm"] * 2
        in_size(pool, server, 2)


def test_a_stuck_primer_keeps_no_pool_alive(flavour: Flavour, make_server: MakeServer, make_primer: MakePrimer) -> None:
    server = make_server()
    primer = make_primer(stuck=1000)
    pool = flavour.insecure(server.target, size=2, primer=getattr(primer, flavour.name))
    pool.open()
    until(lambda: primer.runs == 2)
    del pool

    def gone() -> bool:
        flavour.collect()
        gc.collect()
        return all(name.startswith("grpcpool-primer") for name in pool_threads())

    until(gone)
    primer.over.set()
    until(lambda: gone() and connections(server.port) == 0 and pool_threads() == [])


def test_a_resize_goes_without_members_that_are_not_primed(
    flavour: Flavour, make_server: MakeServer, make_primer: MakePrimer
) -> None:
    server = make_server()
    primer = make_primer()
    with flavour.insecure(server.target, size=1, primer=getattr(primer, flavour.name), primer_timeout=0.2) as pool:
        pool.wait_ready()
        primer.stuck = 1000
        with pytest.raises(grpcpool.ScalingError, match="primer did not return"):
            pool.scale_up(2)
        in_size(pool, server, 1)


# --- closing


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
    pool.close(0.5)
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


def test_closing_while_rpcs_wait_in_line(flavour: Flavour, server: ServerProcess) -> None:
    pool = flavour.insecure(server.target, size=1, max_concurrent_streams=1)
    pool.wait_ready()
    running = pool.begin_unary(metadata=(("delay", "0.5"),))
    waiting = in_background(pool, 10, delay=0)
    until(lambda: pool.stats().waiting == 10)
    closing = Closing(pool, LONG)
    for call in waiting:
        with pytest.raises(grpc.RpcError, match="closed while this RPC waited") as caught:
            call.result(AT_ONCE)
        assert isinstance(caught.value, grpcpool.PoolClosed)
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
    until(lambda: len(pool._engine._driver._inbox) == 2)
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
    arguments = {"args": (b"x",), "kwargs": {"metadata": (("delay", "30"),)}}
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
        calls.extend(unary(b"x", metadata=(("delay", "30"),)) for _ in range(6))
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
            started = time.monotonic()
            _, said = process.communicate(timeout=AT_ONCE)
            assert time.monotonic() - started < 2.0
        finally:
            process.kill()
    assert (ready, process.returncode, said) == ("done\n", 0, "")
