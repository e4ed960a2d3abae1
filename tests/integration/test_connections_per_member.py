"""Connections that grpc opens inside a member when the server's stream limit is reached."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from grpcpool.testing import Proxy, ServerProcess

from .flavours import UNJUDGED, Flavour, Pool
from .waiting import connections, until

pytestmark = [
    pytest.mark.integration,
    # Before, grpc had it only behind a switch in the environment.
    pytest.mark.skipif(
        tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 84), reason="grpc scales connections from 1.84 on"
    ),
]

MakeServer = Callable[..., ServerProcess]

LIMIT = {"grpc.max_concurrent_streams": 2}


def hold(pool: Pool, n: int) -> list[Any]:
    """Start calls that last."""
    return [pool.begin_unary(metadata=(("delay", "30"),)) for _ in range(n)]


def let_go(flavour: Flavour, pool: Pool, calls: list[Any]) -> None:
    """End calls, and wait until the pool has heard of it."""
    while calls:
        # Not kept: a call object of grpc.aio keeps its connection.
        flavour.cancel(calls.pop())
    until(lambda: pool.stats().in_flight == 0)


def rush(flavour: Flavour, pool: Pool, n: int) -> int:
    """Run calls at the same time, and return how many were answered: above the limit a server may reset some."""
    calls = [pool.begin_unary(metadata=(("delay", "0.1"),), timeout=20) for _ in range(n)]
    answered = 0
    for call in calls:
        with contextlib.suppress(grpc.RpcError):
            answered += flavour.finish(call) == b"x"
    return answered


def test_without_it_there_is_one_connection_for_each_member(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server(options=LIMIT)
    with flavour.insecure(server.target, size=2) as pool:
        pool.wait_ready(min_ready=2)
        assert rush(flavour, pool, 20) > 0
        assert connections(server.port) == 2


def test_members_open_further_connections_at_the_stream_limit_and_no_more_than_allowed(
    flavour: Flavour, make_server: MakeServer
) -> None:
    server = make_server(options=LIMIT)
    with flavour.insecure(server.target, size=2, connections_per_member=3, **UNJUDGED) as pool:
        pool.wait_ready(min_ready=2)
        assert rush(flavour, pool, 4) == 4
        assert connections(server.port) == 2, "none before they are needed"
        calls = hold(pool, 20)
        until(lambda: connections(server.port) == 6)
        let_go(flavour, pool, calls)
        assert rush(flavour, pool, 20) > 0
        assert connections(server.port) == 6
        assert [member.state for member in pool.stats().members] == ["ready", "ready"]

    def gone() -> bool:
        flavour.collect()
        return connections(server.port) == 0

    until(gone)


def test_more_connections_than_grpcs_own_limit_of_ten(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server(options={"grpc.max_concurrent_streams": 1})
    with flavour.insecure(server.target, size=1, connections_per_member=12) as pool:
        pool.wait_ready()
        calls = hold(pool, 14)
        until(lambda: connections(server.port) == 12)
        let_go(flavour, pool, calls)


@pytest.mark.parametrize("kind", [str, bytes])
def test_the_users_service_config_still_holds(flavour: Flavour, make_server: MakeServer, kind: type) -> None:
    server = make_server(options=LIMIT)
    text = json.dumps({"methodConfig": [{"name": [{}], "maxRequestMessageBytes": 10}]})
    options = [("grpc.service_config", text if kind is str else text.encode())]
    with flavour.insecure(server.target, options, size=1, connections_per_member=3) as pool:
        pool.wait_ready()
        assert pool.unary(b"short") == b"short"
        with pytest.raises(grpc.RpcError) as caught:
            pool.unary(b"longer than allowed")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        calls = hold(pool, 8)
        until(lambda: connections(server.port) == 3)
        let_go(flavour, pool, calls)


def test_a_malformed_service_config_fails_as_on_a_plain_channel(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server()
    with flavour.insecure(server.target, [("grpc.service_config", "no json")], connections_per_member=3) as pool:
        with pytest.raises(grpc.RpcError) as caught:
            pool.unary()
        assert "JSON parsing failed" in str(caught.value)


def test_a_member_is_connected_as_long_as_one_of_its_connections_is(flavour: Flavour, make_server: MakeServer) -> None:
    server = make_server(options=LIMIT)
    with Proxy(server.port) as proxy, flavour.insecure(proxy.target, size=1, connections_per_member=3) as pool:
        pool.wait_ready()
        (first,) = proxy.connections
        calls = hold(pool, 8)
        until(lambda: len(proxy.connections) == 3)
        let_go(flavour, pool, calls)
        proxy.cut_one(first)
        # Until grpc has noticed, a call on the oldest connection fails.
        until(lambda: rush(flavour, pool, 1) == 1)
        assert first not in proxy.connections
        assert pool.stats().disconnects == 0
