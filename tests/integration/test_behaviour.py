"""What a pool does, specified once and shown of both: the sync pool and the aio pool."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool import events
from grpcpool.testing import ECHO, FaultServer, Proxy, ServerProcess

from ..certificates import make_certificates
from .flavours import Flavour, Pool
from .test_unclosed import collect
from .waiting import connections, pool_threads, until

pytestmark = pytest.mark.integration

# What is said of a pool that nobody closes, as some here are not.
UNCLOSED = "ignore:pool .* was collected while it was open:ResourceWarning"

MakeServer = Callable[..., ServerProcess]


def idle(pool: Pool) -> float:
    return until(lambda: pool.stats().in_flight == 0)


# --- N means N


@pytest.mark.parametrize("size", [1, 8])
def test_size_is_the_number_of_connections(flavour: Flavour, make_server: MakeServer, size: int) -> None:
    server = make_server()
    with flavour.insecure(server.target, size=size) as pool:
        pool.wait_ready(min_ready=size)
        for _ in range(2 * size):
            pool.unary()
        assert connections(server.port) == size
    until(lambda: connections(server.port) == 0)


def test_size_is_the_number_of_connections_over_tls_too(
    flavour: Flavour, make_server: MakeServer, tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path)
    server = make_server(certificate=certificates.server.certificate, key=certificates.server.key)
    with flavour.secure(server.target, certificates.channel_credentials(), size=8) as pool:
        pool.wait_ready(min_ready=8)
        for _ in range(16):
            pool.unary()
        assert connections(server.port) == 8


def test_members_are_spread_evenly_over_several_targets(flavour: Flavour, make_server: MakeServer) -> None:
    servers = [make_server() for _ in range(3)]
    targets = [server.target for server in servers[:2]] + [grpcpool.Endpoint(servers[2].target, weight=2)]
    with flavour.insecure(targets, size=7) as pool:
        pool.wait_ready(min_ready=7)
        assert [connections(server.port) for server in servers] == [3, 2, 2]


# --- dropping in


def test_the_pool_is_a_channel_of_grpcs(flavour: Flavour, server: ServerProcess) -> None:
    with flavour.insecure(server.target) as pool:
        assert isinstance(pool.raw, grpc.aio.Channel if flavour.name == "aio" else grpc.Channel)


def test_all_four_kinds_of_rpc_work_without_opening_first(flavour: Flavour, server: ServerProcess) -> None:
    pool = flavour.insecure(server.target, size=2)
    assert pool.unary(b"one") == b"one"
    assert pool.server_stream(b"s", metadata=(("count", "4"),)) == [b"s"] * 4
    assert pool.client_stream([b"a", b"b", b"c"]) == b"abc"
    assert pool.bidi([b"a", b"b"]) == [b"a", b"b"]
    pool.close()


@pytest.mark.parametrize("registered", [{}, {"_registered_method": True}, True])
def test_methods_are_registered_by_keyword_and_by_position(
    flavour: Flavour, server: ServerProcess, registered: Any
) -> None:
    with flavour.insecure(server.target, size=2) as pool:
        arguments = (None, None, True) if registered is True else ()
        keywords = {} if registered is True else registered
        callable_ = flavour.call(pool.raw.unary_unary, f"{ECHO}Unary", *arguments, **keywords)
        for _ in range(4):
            assert flavour.unary(callable_, b"x") == b"x"


def test_the_same_method_is_built_once(flavour: Flavour, server: ServerProcess) -> None:
    with flavour.insecure(server.target) as pool:
        assert pool.method("Unary") is pool.method("Unary")
        for number in range(3000):
            flavour.call(pool.raw.unary_unary, f"/m/{number}")
        assert len(pool.raw._room.front._callables) <= 1024


def test_a_serializer_that_cannot_be_hashed_is_used_all_the_same(flavour: Flavour, server: ServerProcess) -> None:
    class Twice(list):  # type: ignore[type-arg]
        def __call__(self, message: bytes) -> bytes:
            return message * 2

    with flavour.insecure(server.target) as pool:
        callable_ = flavour.call(pool.raw.unary_unary, f"{ECHO}Unary", Twice(), Twice())
        assert flavour.unary(callable_, b"x") == b"xxxx"


def test_a_unix_socket_is_a_target(flavour: Flavour, make_server: MakeServer, tmp_path: Path) -> None:
    make_server(address=f"unix:{tmp_path}/s")
    with flavour.insecure(f"unix:{tmp_path}/s", size=2) as pool:
        assert pool.unary(b"local") == b"local"


def test_errors_are_grpcs_own(flavour: Flavour, server: ServerProcess) -> None:
    plain = flavour.call(lambda: (grpc.aio if flavour.name == "aio" else grpc).insecure_channel(server.target))
    with flavour.insecure(server.target) as pool:
        caught = []
        for channel in (plain, pool.raw):
            with pytest.raises(grpc.RpcError) as error:
                pool.unary(on=channel, metadata=(("code", "ABORTED"),))
            caught.append((type(error.value), error.value.code(), error.value.details()))
        assert caught[0] == caught[1]
    flavour.call(plain.close)


def test_deadlines_hold(flavour: Flavour, server: ServerProcess) -> None:
    with flavour.insecure(server.target) as pool:
        with pytest.raises(grpc.RpcError) as caught:
            pool.unary(timeout=0.1, metadata=(("delay", "5"),))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        idle(pool)


def test_wait_for_ready_waits_for_a_server_that_starts_later(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server()
    server.kill()
    with flavour.insecure(server.target, size=2, backoff_min=0.1, backoff_max=0.2) as pool:
        until(lambda: pool.stats().connect_failures >= 2)
        call = pool.begin_unary(b"late", wait_for_ready=True, timeout=20)
        server.start()
        assert flavour.finish(call) == b"late"


def test_without_wait_for_ready_an_rpc_fails_fast(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server()
    server.kill()
    with flavour.insecure(server.target, size=2) as pool:
        with pytest.raises(grpc.RpcError) as caught:
            pool.unary()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        idle(pool)


def test_compression_and_options_reach_every_member(flavour: Flavour, server: ServerProcess) -> None:
    options = (pair for pair in [(b"grpc.max_receive_message_length", 100)])
    with flavour.insecure(server.target, options, grpc.Compression.Gzip, size=2) as pool:
        assert pool.unary(b"x" * 90) == b"x" * 90
        for _ in range(4):
            with pytest.raises(grpc.RpcError) as caught:
                pool.unary(b"x" * 200)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_factory_of_grpcs_that_is_replaced_by_the_pool_still_makes_members(
    flavour: Flavour, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, ours = (grpc.aio, grpcpool.aio) if flavour.name == "aio" else (grpc, grpcpool)
    monkeypatch.setattr(
        module, "insecure_channel", lambda *args, **kwargs: ours.insecure_channel(*args, **kwargs, size=3)
    )
    raw = module.insecure_channel(server.target)
    pool = Pool(flavour, raw)
    assert pool.unary() == b"x"
    pool.wait_ready(min_ready=3)
    pool.close()


# --- counting


def test_in_flight_goes_up_and_down_again(flavour: Flavour, fault_server: FaultServer) -> None:
    with flavour.insecure(fault_server.target, size=2, unresponsive_after=None) as pool:
        pool.wait_ready(min_ready=2)
        fault_server.hang()
        calls = [pool.begin_unary() for _ in range(4)]
        stats = pool.stats()
        assert stats.in_flight == 4
        assert [member.in_flight for member in stats.members] == [2, 2]
        fault_server.heal()
        assert [flavour.finish(call) for call in calls] == [b"x"] * 4
        idle(pool)
        assert pool.stats().calls == 4


def unusable(_: object) -> bytes:
    raise LookupError("mine")


@pytest.mark.parametrize("what", ["request_serializer", "response_deserializer"])
@pytest.mark.parametrize("how", ["blocking", "future", "stream"])
def test_what_users_code_raises_is_no_members_fault(server: ServerProcess, what: str, how: str) -> None:
    # Of the sync pool: grpc.aio raises it elsewhere.
    with grpcpool.insecure_channel(server.target, size=2) as pool:
        pool.wait_ready(min_ready=2)
        kind, method = (pool.unary_stream, "ServerStream") if how == "stream" else (pool.unary_unary, "Unary")
        multicallable = kind(f"{ECHO}{method}", **{what: unusable})
        call = {
            "blocking": multicallable,
            "future": lambda request: multicallable.future(request).result(),
            "stream": lambda request: list(multicallable(request)),
        }[how]
        for _ in range(12):
            with pytest.raises(grpc.RpcError, match="Exception"):
                call(b"x")

        def over() -> bool:
            # grpc neither cancels nor reads on a stream whose message it could not make sense of: if its end has not
            # come with that message, it is over when its call is collected, which its own traceback refers to.
            gc.collect()
            return pool.stats().in_flight == 0

        until(over)
        stats = pool.stats()
        assert (stats.failures, stats.ejections) == (0, 0)
        assert [member.state for member in stats.members] == ["ready"] * 2


def test_failures_are_counted_and_cancellations_are_not(flavour: Flavour, server: ServerProcess) -> None:
    with flavour.insecure(server.target, size=1) as pool:
        with pytest.raises(grpc.RpcError):
            pool.unary(metadata=(("code", "INTERNAL"),))
        call = pool.begin_unary(metadata=(("delay", "5"),))
        flavour.cancel(call)
        idle(pool)
        assert (pool.stats().calls, pool.stats().failures) == (2, 1)


@pytest.mark.parametrize("read", [0, 2])
def test_a_stream_that_is_dropped_gives_its_place_back_and_is_cancelled(
    flavour: Flavour, server: ServerProcess, read: int
) -> None:
    with flavour.insecure(server.target, size=1) as pool:
        pool.wait_ready()
        call = pool.begin_stream(metadata=(("count", "1000000"), ("gap", "0.01")))
        for _ in range(read):
            flavour.read(call)
        assert pool.stats().in_flight == 1
        death = weakref.ref(call)
        del call

        def given_back() -> bool:
            flavour.collect()
            return bool(pool.stats().in_flight == 0)

        until(given_back)
        assert death() is None


def test_latency_is_measured_of_unary_calls_only(flavour: Flavour, server: ServerProcess) -> None:
    with flavour.insecure(server.target, size=1) as pool:
        pool.server_stream()
        pool.client_stream([b"x"])
        idle(pool)
        assert pool.stats().members[0].latency is None
        pool.unary(metadata=(("delay", "0.05"),))
        assert pool.stats().members[0].latency > 0.05


# --- picking


def test_round_robin_is_the_default_and_uses_every_member_alike(flavour: Flavour, server: ServerProcess) -> None:
    with flavour.insecure(server.target, size=4) as pool:
        pool.wait_ready(min_ready=4)
        for _ in range(20):
            pool.unary()
        assert [member.calls for member in pool.stats().members] == [5, 5, 5, 5]


def test_power_of_two_keeps_away_from_a_busy_member(flavour: Flavour, server: ServerProcess) -> None:
    with flavour.insecure(server.target, size=2, strategy="power_of_two") as pool:
        pool.wait_ready(min_ready=2)
        stream = pool.begin_stream(metadata=(("count", "1000"), ("gap", "0.1")))
        (busy,) = [member.id for member in pool.stats().members if member.in_flight]
        for _ in range(20):
            pool.unary()
        assert {member.id: member.calls for member in pool.stats().members} == {busy: 1, 1 - busy: 20}
        flavour.cancel(stream)


def test_get_channel_is_bound_to_one_member_and_counted(flavour: Flavour, server: ServerProcess) -> None:
    with flavour.insecure(server.target, size=3) as pool:
        pool.wait_ready(min_ready=3)
        channel = pool.get_channel()
        for _ in range(6):
            pool.unary(on=channel)
        assert sorted(member.calls for member in pool.stats().members) == [0, 0, 6]
        flavour.call(channel.close)
        assert pool.unary(on=channel) == b"x", "closing it does nothing"


def test_a_channel_whose_member_has_retired_goes_through_the_pool(flavour: Flavour, server: ServerProcess) -> None:
    with flavour.insecure(server.target, size=4) as pool:
        pool.wait_ready(min_ready=4)
        channels = [pool.get_channel() for _ in range(4)]
        callables = [pool.method("Unary", on) for on in channels]
        pool.scale_down(3)
        until(lambda: len(pool.stats().members) == 1)
        for callable_ in callables:
            assert flavour.unary(callable_, b"x") == b"x"
        assert pool.stats().members[0].calls == 4


def test_get_channel_before_anything_is_connected(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server()
    server.kill()
    pool = flavour.insecure(server.target)
    with pytest.raises(grpcpool.NotConnected, match=r"0? ?.*no member is connected"):
        pool.get_channel()
    server.start()
    pool.wait_ready()
    assert pool.unary(on=pool.get_channel()) == b"x"
    pool.close()


def test_a_listener_hears_of_picks(flavour: Flavour, server: ServerProcess) -> None:
    heard: list[events.Event] = []
    with flavour.insecure(server.target, size=2, listeners=heard.append) as pool:
        pool.wait_ready(min_ready=2)
        for _ in range(4):
            pool.unary()
        pool.get_channel()
        picks = Counter(event.member for event in heard if isinstance(event, events.Picked))
        assert sum(picks.values()) == 5
        assert set(picks) == {0, 1}


# --- losing connections


def test_members_whose_connections_are_cut_leave_and_come_back(flavour: Flavour, proxy: Proxy) -> None:
    with flavour.insecure(proxy.target, size=4) as pool:
        pool.wait_ready(min_ready=4)
        before = pool.stats().disconnects
        proxy.cut()
        until(lambda: pool.stats().disconnects >= before + 4)
        pool.wait_ready(min_ready=4)
        assert pool.unary() == b"x"
        assert {member.state for member in pool.stats().members} == {"ready"}


def test_while_one_member_is_connected_no_rpc_goes_to_one_known_to_be_down(
    flavour: Flavour, make_server: MakeServer, server: ServerProcess
) -> None:
    heard: list[events.Event] = []
    victim = make_server()
    with flavour.insecure([server.target, victim.target], size=4, listeners=heard.append) as pool:
        pool.wait_ready(min_ready=4)
        victim.kill()
        # Listeners hear of it when it has left the picks.
        until(lambda: sum(isinstance(event, events.ConnectionDown) for event in heard) == 2)
        calls = {member.id: member.calls for member in pool.stats().members}
        for _ in range(40):
            pool.unary()
        for member in pool.stats().members:
            if member.endpoint == victim.target:
                assert member.calls == calls[member.id]
        assert pool.status() == grpcpool.PoolStatus(pool.status().name, 4, 2, "degraded")


def test_a_channel_that_cannot_connect_is_rebuilt(flavour: Flavour, make_server: MakeServer) -> None:
    heard: list[events.Event] = []
    server = make_server()
    server.kill()
    options: dict[str, Any] = {"backoff_min": 0.1, "backoff_max": 0.1, "max_reconnect_attempts": 2}
    with flavour.insecure(server.target, size=1, listeners=[heard.append], **options) as pool:
        until(lambda: any(isinstance(event, events.Rebuilt) for event in heard))
        server.start()
        pool.wait_ready()
        assert pool.unary() == b"x"


# --- connectivity of the whole


def test_wait_ready_says_what_is_wrong(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server()
    server.kill()
    with flavour.insecure(server.target, size=2) as pool:
        pool.open()
        until(lambda: any("refused" in (member.last_error or "") for member in pool.stats().members))
        with pytest.raises(grpcpool.PoolTimeout, match=r"(?i)refused") as caught:
            pool.wait_ready(timeout=0.5)
        assert isinstance(caught.value, TimeoutError)
        assert server.target in str(caught.value)
        for wrong in (0, 3, True):
            with pytest.raises(grpcpool.ConfigError, match="min_ready"):
                pool.wait_ready(min_ready=wrong)


def test_names_are_found_while_the_pool_is_open(flavour: Flavour, server: ServerProcess) -> None:
    pool = flavour.insecure(server.target, name="orders")
    assert grpcpool.get_pool("orders") is pool.raw
    assert grpcpool.pools() == {"orders": pool.raw}
    with pytest.raises(grpcpool.ConfigError, match="orders"):
        flavour.insecure(server.target, name="orders")
    pool.close()
    with pytest.raises(grpcpool.UnknownPool, match="orders"):
        grpcpool.get_pool("orders")
    with flavour.insecure(server.target, name="orders") as pool:
        assert "orders" in repr(pool.raw)


@pytest.mark.filterwarnings(UNCLOSED)
def test_a_name_keeps_no_pool_alive(flavour: Flavour, server: ServerProcess) -> None:
    pool = flavour.insecure(server.target, name="forgotten")
    pool.unary()
    del pool

    def forgotten() -> bool:
        flavour.collect()
        return "forgotten" not in grpcpool.pools()

    until(forgotten)


@pytest.mark.filterwarnings(UNCLOSED)
def test_a_pool_that_nobody_closes_lets_go_of_its_connections_and_threads(
    flavour: Flavour, make_server: MakeServer
) -> None:
    server = make_server()
    pool = flavour.insecure(server.target, size=3)
    pool.wait_ready(min_ready=3)
    pool.unary()
    assert connections(server.port) == 3
    del pool

    def gone() -> bool:
        flavour.collect()
        gc.collect()
        return connections(server.port) == 0 and not pool_threads()

    until(gone)


@pytest.mark.filterwarnings(UNCLOSED)
def test_a_stub_outlives_the_name_of_its_pool(flavour: Flavour, server: ServerProcess) -> None:
    method = flavour.insecure(server.target, size=2).method("Unary")
    flavour.collect()
    assert flavour.unary(method, b"still here") == b"still here"
    del method
    # Here, and not in the middle of another test, which it would make fail.
    assert len(collect(1)) == 1


# --- resizing


def test_the_size_changes_as_asked(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server()
    with flavour.insecure(server.target, size=2) as pool:
        assert pool.scale_up(3) == 5
        assert pool.scale_down(1) == 4
        assert pool.resize(6) == 6
        assert pool.resize(6) == 6
        assert pool.status().expected_size == 6
        until(lambda: connections(server.port) == 6)
        pool.resize(1)
        until(lambda: connections(server.port) == 1)


@pytest.mark.parametrize(
    ("how", "n"),
    [("scale_up", 0), ("scale_up", -1), ("scale_down", 0), ("scale_up", 1.5), ("resize", "3"), ("resize", True)],
)
def test_a_size_that_is_none_is_refused(flavour: Flavour, server: ServerProcess, how: str, n: Any) -> None:
    with flavour.insecure(server.target, size=2) as pool, pytest.raises(grpcpool.ConfigError, match="n: "):
        getattr(pool, how)(n)


def test_a_running_rpc_survives_the_retirement_of_its_member(flavour: Flavour, server: ServerProcess) -> None:
    with flavour.insecure(server.target, size=4) as pool:
        pool.wait_ready(min_ready=4)
        calls = [pool.begin_unary(metadata=(("delay", "0.4"),)) for _ in range(8)]
        streams = [pool.begin_stream(metadata=(("count", "5"), ("gap", "0.1"))) for _ in range(4)]
        pool.resize(1)
        states = [member.state for member in pool.stats().members]
        assert states.count("draining") == 3
        assert [flavour.finish(call) for call in calls] == [b"x"] * 8
        for stream in streams:
            assert [flavour.read(stream) for _ in range(5)] == [b"x"] * 5
            assert flavour.code(stream) is grpc.StatusCode.OK
        until(lambda: len(pool.stats().members) == 1)


# --- closing


def test_close_cancels_what_runs(flavour: Flavour, server: ServerProcess) -> None:
    pool = flavour.insecure(server.target, size=2)
    pool.wait_ready(min_ready=2)
    call = pool.begin_stream(metadata=(("count", "1000"), ("gap", "0.05")))
    flavour.read(call)
    pool.close()
    assert flavour.code(call) is grpc.StatusCode.CANCELLED
    assert pool.stats().in_flight == 0
    pool.close()


def test_close_with_grace_lets_running_rpcs_end(flavour: Flavour, server: ServerProcess) -> None:
    pool = flavour.insecure(server.target, size=2)
    pool.wait_ready(min_ready=2)
    short = pool.begin_unary(b"in time", metadata=(("delay", "0.2"),))
    pool.close(grace=10)
    assert flavour.finish(short) == b"in time"


def test_close_with_grace_cancels_what_takes_longer(flavour: Flavour, server: ServerProcess) -> None:
    pool = flavour.insecure(server.target, size=2)
    pool.wait_ready(min_ready=2)
    long = pool.begin_stream(metadata=(("count", "1000"), ("gap", "0.05")))
    pool.close(grace=0.2)
    assert flavour.code(long) is grpc.StatusCode.CANCELLED


def test_a_grace_that_is_none_is_refused(flavour: Flavour, server: ServerProcess) -> None:
    with flavour.insecure(server.target) as pool:
        with pytest.raises(grpcpool.ConfigError, match="grace"):
            pool.close(grace=-1)
        assert pool.unary() == b"x"


def test_a_closed_pool_refuses_everything(flavour: Flavour, server: ServerProcess) -> None:
    pool = flavour.insecure(server.target)
    method = pool.method("Unary")
    channel = None
    pool.wait_ready()
    channel = pool.get_channel()
    pool.close()
    attempts: list[Callable[[], Any]] = [
        lambda: flavour.unary(method, b"x"),
        pool.get_channel,
        lambda: pool.unary(on=channel),
        pool.open,
        pool.wait_ready,
        lambda: pool.scale_up(1),
        lambda: pool.resize(1),
    ]
    for attempt in attempts:
        with pytest.raises(grpcpool.PoolClosed):
            attempt()
    with pytest.raises(flavour.closed_error):
        flavour.unary(method, b"x")
    assert pool.status().status == "down"


def test_a_pool_that_was_never_used_closes_quietly(flavour: Flavour, server: ServerProcess) -> None:
    heard: list[events.Event] = []
    flavour.insecure(server.target, listeners=heard.append).close()
    assert heard == []
    assert pool_threads() == []


# --- liveness


def test_an_idle_member_is_pinged(flavour: Flavour, server: ServerProcess) -> None:
    heard: list[events.Event] = []
    with flavour.insecure(server.target, size=2, ping_interval=0.05, listeners=heard.append) as pool:
        pool.wait_ready(min_ready=2)
        until(lambda: {event.member for event in heard if isinstance(event, events.Pinged)} == {0, 1})
        assert {event.result for event in heard if isinstance(event, events.Pinged)} == {"alive"}


def test_a_member_that_does_not_answer_a_ping_is_replaced(flavour: Flavour, make_server: MakeServer) -> None:
    heard: list[events.Event] = []
    server = make_server()
    with flavour.insecure(server.target, size=1, ping_interval=0.1, ping_timeout=0.2, listeners=heard.append) as pool:
        pool.wait_ready()
        server.pause()
        until(lambda: pool.status().current_size == 0)
        until(lambda: any(isinstance(event, events.Pinged) and event.result == "dead" for event in heard))
        server.resume()
        pool.wait_ready()
        assert pool.unary() == b"x"
