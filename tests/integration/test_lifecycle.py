"""How a pool grows, shrinks, renews its members and primes them: specified once and shown of both pools."""

from __future__ import annotations

import gc
import itertools
import logging
import random
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool import events
from grpcpool.testing import ServerProcess

from .flavours import Flavour
from .lifecycle import (
    COUNTS,
    LONG,
    MakePrimer,
    MakeServer,
    endless,
    in_background,
    in_size,
    local_ports,
    of,
    states,
)
from .test_under_load import load
from .waiting import connections, pool_threads, until

pytestmark = pytest.mark.integration

# What is said of a pool that nobody closes, as some here are not.
UNCLOSED = "ignore:pool .* was collected while it was open:ResourceWarning"

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
    # That one is frozen is not to be noticed, however long the others take.
    unnoticed = {"unresponsive_after": None, "connect_timeout": LONG}
    limits = {"min_size": 2, "max_size": 4, "max_concurrent_streams": 1}
    with flavour.insecure([each.target for each in servers], **limits, **unnoticed) as pool:
        pool.wait_ready(min_ready=2)
        servers[1].pause()
        calls = in_background(pool, 8, delay=0.5)
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
        (kept,) = [member.id for member in pool.stats().members if member.in_flight]
        recycled = pool.stats().recycled
        until(lambda: pool.stats().recycled >= recycled + 3)
        oldest = pool.stats().members[0]
        assert (oldest.id, oldest.state, oldest.in_flight) == (kept, "draining", 1)
        assert flavour.read(stream) == b"x"
        flavour.cancel(stream)
        until(lambda: pool.stats().members[0].id != kept)


def test_drain_timeout_cancels_what_lasts_and_says_how_much(flavour: Flavour, server: ServerProcess) -> None:
    heard: list[events.Event] = []
    with flavour.insecure(server.target, size=1, max_lifetime=4.0, drain_timeout=0.3, listeners=heard.append) as pool:
        pool.wait_ready()
        streams = [endless(pool) for _ in range(3)]
        until(lambda: any(event.member == 0 for event in of(events.Drained, heard)))
        assert [flavour.code(stream) for stream in streams] == [grpc.StatusCode.CANCELLED] * 3
        (drained,) = [event for event in of(events.Drained, heard) if event.member == 0]
        assert (drained.cancelled, drained.reason) == (3, "max_lifetime of 4 s has passed")
        assert drained.duration >= 0.3
        until(lambda: pool.stats().in_flight == 0)
        decided = [decision.reason for decision in pool.stats().decisions if decision.what == "Drained"]
        assert "member 0: max_lifetime of 4 s has passed; 3 RPCs were cancelled" in decided
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
        until(lambda: any("it could not replace member" in event.reason for event in of(events.Drained, heard)))
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
        primer_timeout=5.0,
        backoff_min=0.1,
        listeners=heard.append,
    ) as pool:
        assert pool.unary() == b"x", "while no member is ready, RPCs do not wait for it"
        pool.wait_ready(min_ready=2)
        assert {event.error for event in of(events.PrimerFailed, heard)} == {"the primer did not return within 5 s"}
        assert primer.answers == [b"warm"] * 2
        in_size(pool, server, 2)


@pytest.mark.filterwarnings(UNCLOSED)
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
