"""Bugs that pools are known for, one test each: those in how a pool keeps its members."""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool import events
from grpcpool.core.messages import Tick
from grpcpool.strategies import Member, Picker, RoundRobin
from grpcpool.testing import ECHO, FaultServer, Proxy, ServerProcess

from ..integration.flavours import Flavour, Pool
from ..integration.lifecycle import COUNTS, MakePrimer, of, states
from ..integration.waiting import connections, pool_threads, until
from ..unit.world import World, connected

pytestmark = pytest.mark.integration

LONG = 60.0
# As quick as it may be.
QUICK: dict[str, Any] = {"backoff_min": 0.1, "backoff_max": 0.2}


def all_ready(pool: Pool, size: int) -> bool:
    return states(pool) == ["ready"] * size


def test_a_replacement_that_fails_leaves_a_hole(flavour: Flavour, proxy: Proxy, server: ServerProcess) -> None:
    """Each time that a new connection cannot be made in the place of an old one the pool has one fewer, until none is
    left; nothing ever says so."""
    options: dict[str, Any] = {"max_lifetime": 0.3, "connect_timeout": 0.5, "max_reconnect_attempts": 2, **QUICK}
    with flavour.insecure(proxy.target, size=3, **options) as pool:
        pool.wait_ready(min_ready=3)
        # Those that are there remain, and nobody can take their places.
        proxy.refuse()
        failed = pool.stats().connect_failures
        until(lambda: pool.stats().connect_failures >= failed + 3)
        assert pool.unary() == b"x"
        assert pool.stats().size == 3
        assert pool.status().current_size == 3
        # Now these go as well.
        proxy.cut()
        until(lambda: pool.status().current_size == 0)
        failed = pool.stats().connect_failures
        until(lambda: pool.stats().connect_failures >= failed + 8)
        proxy.heal()
        until(lambda: pool.status() == grpcpool.PoolStatus(pool.stats().name, 3, 3, "healthy"))
        until(lambda: pool.stats().recycled >= 1)
        assert pool.unary() == b"x"


class Erratic(RoundRobin):
    """A strategy that raises now and then."""

    angry = False

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Callable[[], float]) -> Picker:
        if self.angry:
            raise ArithmeticError("build")
        return super().build(members, rng=rng, clock=clock)


class Credentials:
    """A factory of credentials that raises now and then."""

    angry = False
    raised = 0

    def __call__(self) -> grpc.ChannelCredentials:
        if self.angry:
            self.raised += 1
            raise ArithmeticError("credentials")
        return grpc.local_channel_credentials()


def test_a_monitor_that_dies_of_one_exception(flavour: Flavour, faulty: FaultServer) -> None:
    """Whatever is called from the pool's upkeep raises once, even SystemExit, and from then on dead connections are
    never noticed and never replaced."""
    strategy, credentials = Erratic(), Credentials()
    heard: list[events.Event] = []
    raised: list[str] = []

    def listener(event: events.Event) -> None:
        heard.append(event)
        if strategy.angry:
            raised.append(threading.current_thread().name)
            raise (SystemExit if len(raised) % 2 else ArithmeticError)("listener")

    options: dict[str, Any] = {"strategy": strategy, "listeners": listener, "max_reconnect_attempts": 1, **QUICK}
    with flavour.secure(faulty.target, credentials, size=2, **options) as pool:
        pool.wait_ready(min_ready=2)
        for _ in range(2):
            strategy.angry = credentials.angry = True
            told, asked, gone = len(raised), credentials.raised, pool.stats().disconnects
            faulty.kill()
            # Nobody makes a call, so all of this is upkeep.
            until(lambda told=told: len(raised) > told + 3)
            until(lambda asked=asked: credentials.raised > asked)
            until(lambda gone=gone: pool.stats().disconnects >= gone + 2)
            assert pool.stats().disconnects == gone + 2
            faulty.start()
            strategy.angry = credentials.angry = False
            until(lambda: all_ready(pool, 2))
            assert pool.unary() == b"x"
        assert pool.stats().listener_errors == len(raised)
    assert isinstance(heard[-1], events.Closed)


def test_recovery_that_only_new_calls_can_trigger(flavour: Flavour, faulty: FaultServer) -> None:
    """After an outage in a quiet hour the first calls fail, or wait for connections, although the server has been back
    for long."""
    with flavour.insecure(faulty.target, size=3, **QUICK) as pool:
        pool.wait_ready(min_ready=3)
        for away in (faulty.kill, faulty.stop, faulty.goaway):
            gone = pool.stats().disconnects
            away()
            until(lambda gone=gone: pool.stats().disconnects >= gone + 3)
            if away != faulty.goaway:
                faulty.start()
            until(lambda: all_ready(pool, 3))
        until(lambda: len(faulty.connections) == 3)
        # Nobody has called anything in all that time.
        assert (pool.stats().calls, faulty.calls) == (0, 0)
        assert [pool.unary() for _ in range(6)] == [b"x"] * 6
        assert pool.stats().failures == 0


def test_options_lost_at_refresh(flavour: Flavour, faulty: FaultServer) -> None:
    """The first connections have the user agent, the interceptors, the credentials that were asked for; those that
    take their places later on have none of them."""
    count = COUNTS[flavour.name]()
    made: list[object] = []

    def credentials() -> grpc.ChannelCredentials:
        made.append(None)
        return grpc.local_channel_credentials()

    options = (option for option in [("grpc.primary_user_agent", "chaos/1")])
    with flavour.pool(
        grpcpool.PoolConfig(
            target=faulty.target,
            credentials=credentials,
            options=options,
            interceptors=(each for each in [count]),
            size=2,
            max_lifetime=0.5,
            max_reconnect_attempts=1,
            **QUICK,
        )
    ) as pool:
        seen: set[int] = set()

        def called_on(fresh: int) -> bool:
            """Make calls, and say whether they have come on so many more connections."""
            assert pool.unary(timeout=LONG) == b"x"
            seen.update(request.port for request in faulty.requests)
            return len(seen) >= fresh

        pool.wait_ready(min_ready=2)
        until(lambda: called_on(2))
        pool.resize(4)
        until(lambda: called_on(4))
        faulty.kill()
        until(lambda: pool.status().current_size == 0)
        rebuilt = len(made)
        until(lambda: len(made) > rebuilt)
        faulty.start()
        pool.wait_ready(min_ready=4)
        # Grown, rebuilt, and recycled.
        until(lambda: called_on(12))
        assert pool.stats().recycled >= 2
        calls = [request for request in faulty.requests if request.method.startswith(ECHO)]
        # Those of an aio channel also see the pool ask why it does not connect.
        assert count.calls >= len(calls) == pool.stats().calls
        agents = {dict(call.metadata)["user-agent"].split()[0] for call in calls}
        assert agents == {"chaos/1"}
        assert len(made) >= len(seen)


class Remembers(RoundRobin):
    """Keeps the first members that it is given, and picks among those in turn."""

    first: tuple[Member, ...] = ()

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Callable[[], float]) -> Picker:
        self.first = max(self.first, tuple(members), key=len)
        turns = itertools.cycle(self.first)
        return lambda: next(turns)


def test_a_cached_index_after_removal(flavour: Flavour, server: ServerProcess) -> None:
    """Whoever has remembered the fifth of six connections gets an IndexError, or calls on one that was closed, once
    there are only three."""
    heard: list[events.Event] = []
    with (
        flavour.insecure(server.target, size=6) as pool,
        flavour.insecure(server.target, size=6, strategy=Remembers(), listeners=heard.append) as mistaken,
    ):
        pool.wait_ready(min_ready=6)
        mistaken.wait_ready(min_ready=6)
        channels = [flavour.on_loop(pool.raw.get_channel) for _ in range(6)]
        methods = [pool.method("Unary", on=channel) for channel in channels]
        assert len({id(channel) for channel in channels}) == 6
        for size in (6, 3, 1, 6):
            pool.resize(size)
            mistaken.resize(size)
            until(lambda size=size: len(pool.stats().members) == size)
            assert [flavour.unary(method, b"%d" % i) for i, method in enumerate(methods)] == [
                b"0",
                b"1",
                b"2",
                b"3",
                b"4",
                b"5",
            ]
            assert [pool.unary(on=channel) for channel in channels] == [b"x"] * 6
            assert [mistaken.unary() for _ in range(6)] == [b"x"] * 6
        assert pool.stats().failures == mistaken.stats().failures == 0
        assert pool.stats().calls == 4 * 12
        # The strategy's mistake was seen and said, and was nobody else's.
        assert "not among the" in of(events.StrategyFailed, heard)[0].error


def test_a_primer_that_never_returns(flavour: Flavour, make_server: Any, make_primer: MakePrimer) -> None:
    """One warm-up that hangs keeps the pool from ever being ready, and then from being closed."""
    server = make_server()
    primer = make_primer(stuck=3)
    heard: list[events.Event] = []
    options: dict[str, Any] = {"primer": getattr(primer, flavour.name), "primer_timeout": 0.2, **QUICK}
    pool = flavour.insecure(server.target, size=2, listeners=heard.append, **options)
    with pool:
        # While it hangs, calls do not.
        assert pool.unary(timeout=LONG) == b"x"
        pool.wait_ready(min_ready=2)
        assert "did not return within" in of(events.PrimerFailed, heard)[0].error
        primer.stuck = sys.maxsize
        with pytest.raises(grpcpool.ScalingError, match="did not return within"):
            pool.resize(3)
        assert (pool.stats().size, pool.unary(timeout=LONG)) == (2, b"x")
        started = time.monotonic()
    assert time.monotonic() - started < LONG
    primer.over.set()
    until(lambda: connections(server.port) == 0)
    until(lambda: pool_threads() == [])


def test_a_clock_that_jumps(monkeypatch: pytest.MonkeyPatch, flavour: Flavour, server: ServerProcess) -> None:
    """Somebody sets the clock, and at once all connections are too old, all calls late, and the next report is due in
    a year."""
    heard: list[events.Event] = []
    options: dict[str, Any] = {"max_lifetime": 3600.0, "ping_interval": 60.0, "telemetry_interval": 0.1}
    options["unresponsive_after"] = None
    with flavour.insecure(server.target, size=3, listeners=heard.append, **options) as pool:
        pool.wait_ready(min_ready=3)
        members = {member.id for member in pool.stats().members}
        truth = time.time
        for jump in (365 * 86400.0, -365 * 86400.0, 0.0):
            monkeypatch.setattr(time, "time", lambda jump=jump: truth() + jump)
            reports = len(of(events.StatusReport, heard))
            # Without a deadline: grpc itself adds those to the time of day.
            assert [pool.unary() for _ in range(6)] == [b"x"] * 6
            until(lambda reports=reports: len(of(events.StatusReport, heard)) > reports + 2)
        stats = pool.stats()
        assert {member.id for member in stats.members} == members
        assert (stats.failures, stats.recycled, stats.ejections, stats.disconnects) == (0, 0, 0, 0)
        assert all(0 <= member.age < 60 and 0 < (member.latency or 0) < LONG for member in stats.members)


POLICY: dict[str, Any] = {
    "telemetry_interval": 5.0,
    "ping_interval": 10.0,
    "max_consecutive_failures": 5,
    "min_success_rate": 0.8,
    "unresponsive_after": 1.0,
    "outlier_detection": True,
}


def busy() -> World:
    world = connected("a", "b", size=4, **POLICY)
    world.pass_time(3)
    for member in world.ready:
        world.call(member, "answered", 10)
    return world


@pytest.mark.parametrize("jump", [10.0, 86400.0, 1e9])
def test_a_clock_that_jumps_because_the_machine_was_asleep(jump: float) -> None:
    """A laptop wakes up, and the pool throws everybody out who has not answered since last night."""
    world = busy()
    before = world.ready
    running = [world.lease(member) for member in before]
    late = [world.lease(before[0]) for _ in range(6)]
    reports = len(world.told(events.StatusReport))
    world.clock.advance(jump)
    world.tell(Tick())
    # What was due while it slept is done once.
    assert len(world.told(events.StatusReport)) == reports + 1
    assert len(world.pings) == len(set(world.pings)) <= 4
    for lease in running:
        world.end(lease)
    # Their deadlines have passed meanwhile, all in a row.
    for lease in late:
        world.end(lease, "failed")
    for member in list(world.pings):
        world.pong(member)
    world.pass_time(3)
    assert len(world.told(events.StatusReport)) <= reports + 2
    assert world.ready == before
    assert world.told(events.Ejected) == world.told(events.Rebuilt) == world.closed == []


@pytest.mark.parametrize("jump", [0.001, 5.0, 99.0])
def test_a_clock_that_jumps_back(jump: float) -> None:
    """Time that has been once is once more (some virtual machines do that when they are moved), and the pool does
    nothing more until it is as late as it was."""
    world = busy()
    first = world.ready[0]
    lease = world.lease(first)
    world.clock.now -= jump
    world.end(lease)
    world.fail(first)
    assert first not in world.ready
    assert len(world.ready) == 3
    # However late it is: nobody is forgotten, and all durations make sense.
    world.pass_time(2 * jump + 60)
    world.connect_all()
    assert len(world.ready) == 4
    assert all(getattr(event, "duration", 0.0) >= -jump for event in world.events)
