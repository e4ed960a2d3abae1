"""What users say about RPCs that may be sent more than once."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool.core.course import NOTHING
from grpcpool.failover import Failover, can_repeat, numbered
from grpcpool.outcome import not_connected, pushback, unseen

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def config(**options: Any) -> grpcpool.PoolConfig:
    return grpcpool.PoolConfig(target="localhost:1", **options)


def plans(*, connected: bool = True, **options: Any) -> Failover:
    return Failover(None, config(**options), lambda member: connected)  # type: ignore[arg-type]


def plan(method: str, unary: bool = True, **options: Any) -> Any:
    return plans(**options).plan(method, unary=unary, streamed=not unary)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"attempts": 1}, "attempts"),
        ({"attempts": 11}, "attempts"),
        ({"attempts": True}, "attempts"),
        ({"backoff_min": 0}, "backoff_min"),
        ({"backoff_min": 2.0}, "backoff_max"),
        ({"codes": ()}, "codes"),
        ({"codes": "UNAVAILABLE"}, "codes"),
        ({"codes": [grpc.StatusCode.OK]}, "codes"),
        ({"codes": [grpc.StatusCode.CANCELLED]}, "codes"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_by_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(grpcpool.ConfigError) as caught:
        grpcpool.Retry(**options)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"idempotent": "Get"}, "idempotent"),
        ({"idempotent": ["/shop.Catalog"]}, "idempotent"),
        ({"idempotent": ["/a/b/c"]}, "idempotent"),
        ({"idempotent": ["//b"]}, "idempotent"),
        ({"idempotent": [3]}, "idempotent"),
        ({"idempotent": 3}, "idempotent"),
        ({"idempotent": "*", "retry": 3}, "retry"),
        ({"idempotent": "*", "retry": {"*": 3}}, "retry"),
        ({"idempotent": "*", "retry": {"Get": None}}, "retry"),
        ({"idempotent": "*", "hedge_after": 0}, "hedge_after"),
        ({"idempotent": "*", "hedge_after": "p99"}, "hedge_after"),
        ({"idempotent": "*", "hedge_after": {"*": -1}}, "hedge_after"),
        ({"retry": grpcpool.Retry()}, "retry"),
        ({"hedge_after": 0.1}, "hedge_after"),
        ({"failover": 1}, "failover"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(grpcpool.ConfigError) as caught:
        config(**options)
    assert caught.value.field == field


def test_a_policy_without_a_method_says_what_is_missing() -> None:
    with pytest.raises(grpcpool.ConfigError, match="idempotent"):
        config(retry=grpcpool.Retry())


def test_nothing_is_sent_twice_that_may_have_been_seen_unless_declared() -> None:
    assert plan("/shop.Catalog/Get").attempts == 1
    other = plan("/shop.Orders/Place", idempotent="/shop.Catalog/*", retry=grpcpool.Retry(), hedge_after=0.1)
    assert (other.attempts, other.hedge_after, other.failover) == (1, None, True)


def test_a_policy_is_for_the_methods_declared() -> None:
    policy = grpcpool.Retry(attempts=4, backoff_min=0.2, backoff_max=0.4, codes=grpc.StatusCode.ABORTED)
    for declared in ("/shop.Catalog/Get", "/shop.Catalog/*", "*", ["/x.Y/Z", "/shop.Catalog/Get"]):
        found = plan("/shop.Catalog/Get", idempotent=declared, retry=policy, hedge_after="p95")
        assert found.attempts == 4
        assert (found.backoff_min, found.backoff_max) == (0.2, 0.4)
        assert found.codes == {grpc.StatusCode.ABORTED}
        assert found.hedge_after == 0


def test_the_most_particular_policy_wins_also_if_it_is_none() -> None:
    policies = {
        "*": grpcpool.Retry(attempts=2),
        "/shop.Catalog/*": grpcpool.Retry(attempts=3),
        "/shop.Catalog/Get": None,
    }
    options: dict[str, Any] = {"idempotent": "*", "retry": policies, "hedge_after": {"/shop.Catalog/Get": 0.5}}
    assert plan("/shop.Catalog/Get", **options).attempts == 1
    assert plan("/shop.Catalog/Get", **options).hedge_after == 0.5
    assert plan("/shop.Catalog/List", **options).attempts == 3
    assert plan("/shop.Orders/List", **options).attempts == 2
    assert plan("/shop.Orders/List", **options).hedge_after is None


def test_streams_are_retried_but_neither_moved_unasked_nor_hedged() -> None:
    options: dict[str, Any] = {"idempotent": "*", "retry": grpcpool.Retry(), "hedge_after": 0.1}
    found = plan("/shop.Catalog/Watch", unary=False, **options)
    assert (found.attempts, found.hedge_after) == (3, None)
    assert plan("/shop.Catalog/Watch", unary=False) == NOTHING
    assert plans(**options).plan("/shop.Catalog/Upload", unary=False, streamed=False) == NOTHING


def test_a_method_may_be_named_in_bytes() -> None:
    found = plans(idempotent="*", retry=grpcpool.Retry()).plan(b"/a/b", unary=True, streamed=False)
    assert found.attempts == 3


def test_failover_can_be_switched_off() -> None:
    assert plan("/a/b", failover=False).failover is False


def test_the_repr_of_a_configuration_shows_the_policy() -> None:
    assert "attempts=3" in repr(config(idempotent="*", retry=grpcpool.Retry()))


@pytest.mark.parametrize(
    ("trailing", "seconds"),
    [
        (None, None),
        ((), None),
        ((("other", "1"),), None),
        ((("grpc-retry-pushback-ms", "250"),), 0.25),
        ((("grpc-retry-pushback-ms", "0"),), 0.0),
        ((("grpc-retry-pushback-ms", "-1"),), -0.001),
        ((("grpc-retry-pushback-ms", "soon"),), -1.0),
    ],
)
def test_what_a_server_says_about_when_to_come_back(trailing: Any, seconds: float | None) -> None:
    assert pushback(trailing) == seconds


@pytest.mark.parametrize(
    ("details", "certain"),
    [
        ("Stream removed (RST_STREAM (Received RST_STREAM with error code 7))", True),
        ("Stream removed (GOAWAY received; Error code: 0; Debug Text: )", True),
        ("Stream removed (GOAWAY received; Error code: 11; Debug Text: too_many_pings)", True),
        ("Stream removed (Transport closed (recvmsg:Connection reset by peer (104)))", True),
        ("Stream removed (Transport closed (Socket closed (GOAWAY received; Error code: 0; Debug Text: )))", True),
        ("Stream removed (Socket closed (GOAWAY received; Error code: 0; Debug Text: ))", False),
        ("Stream removed (recvmsg:Connection reset by peer (104))", False),
        ("Stream removed (Socket closed)", False),
        ("busy", False),
        (None, False),
    ],
)
def test_what_certainly_reached_no_server(details: str | None, certain: bool) -> None:
    assert unseen(UNAVAILABLE, details) is certain
    assert not unseen(grpc.StatusCode.INTERNAL, details)


def test_no_connection_is_believed_if_there_is_none() -> None:
    details = "failed to connect to all addresses; last error: refused"
    assert not_connected(UNAVAILABLE, details)
    assert not not_connected(UNAVAILABLE, None)
    assert not not_connected(grpc.StatusCode.INTERNAL, details)
    member: Any = None
    assert plans(connected=False).end(UNAVAILABLE, details, (), member).untouched
    # Another server's words, passed on.
    assert not plans(connected=True).end(UNAVAILABLE, details, (), member).untouched


def test_a_drop_is_believed_if_the_connection_is_gone() -> None:
    cancelled = grpc.StatusCode.CANCELLED
    member: Any = None
    gone, there = plans(connected=False), plans(connected=True)
    assert gone.end(cancelled, "CANCELLED", (), member).untouched
    assert not gone.is_early(cancelled, "CANCELLED", member)
    # Its goodbye may not have come through yet.
    assert there.is_early(cancelled, "CANCELLED", member)
    assert not there.end(cancelled, "CANCELLED", (), member).untouched
    assert there.end(cancelled, "CANCELLED", (), member).lost
    for other in ("", "Channel closed!", "Locally cancelled by application!"):
        end = gone.end(cancelled, other, (), member)
        assert not end.untouched
        assert not end.lost
        assert not there.is_early(cancelled, other, member)


def test_metadata_that_can_be_read_only_once_cannot_be_sent_again() -> None:
    assert can_repeat(None)
    assert can_repeat((("a", "b"),))
    assert not can_repeat(iter((("a", "b"),)))


def test_attempts_are_numbered_for_the_server() -> None:
    assert numbered(None, 0) is None
    assert numbered(None, 1) == (("grpc-previous-rpc-attempts", "1"),)
    assert numbered([("a", "b")], 2) == (("a", "b"), ("grpc-previous-rpc-attempts", "2"))
