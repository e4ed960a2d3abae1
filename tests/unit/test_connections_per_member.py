"""`connections_per_member`: what it makes of the service config that every member is given."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from grpcpool import ConfigError, ConfigTypeError, PoolConfig


def config(**fields: Any) -> PoolConfig:
    return PoolConfig(target="localhost:50051", **fields)


CONFIG = "grpc.service_config"
CAP = "grpc.max_connections_per_subchannel_cap"


def scaled(*options: tuple[str, Any], to: int = 3) -> list[Any]:
    """Return every service config that a member is given."""
    found = config(options=options, connections_per_member=to).channel_options()
    return [value for name, value in found if name == CONFIG]


def scaling(most: int) -> dict[str, Any]:
    return {"connectionScaling": {"maxConnectionsPerSubchannel": most}}


def test_unless_connections_are_asked_for_the_service_config_is_left_alone() -> None:
    assert {CONFIG, CAP}.isdisjoint(dict(config().channel_options()))
    for value in (json.dumps(scaling(2)), b"{}", 5, "no json"):
        assert config(options=[(CONFIG, value)]).channel_options()[0] == (CONFIG, value)
    assert CAP not in dict(config(options=[(CONFIG, "{}")]).channel_options())


@pytest.mark.parametrize("most", [1, 3, 40, 2**31 - 1])
def test_connections_per_member_are_in_the_service_config_and_above_grpcs_own_limit(most: int) -> None:
    (text,) = scaled(to=most)

    assert json.loads(text) == scaling(most)
    assert dict(config(connections_per_member=most).channel_options())[CAP] == most


def test_a_limit_of_the_users_wins() -> None:
    found = config(options=[(CAP, 5)], connections_per_member=40).channel_options()

    assert [value for name, value in found if name == CAP] == [5]


RETRY = """ {
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{"name": [{}], "timeout": "1.50s", "retryPolicy": {"maxAttempts": 3, "backoffMultiplier": 1.0}}]
}
"""


@pytest.mark.parametrize("text", ["{}", " {\n} ", '{"a":1}', '{"a": {"connectionScaling": {}}}', '{"ü": "{"}', RETRY])
@pytest.mark.parametrize("kind", [str, bytes])
def test_the_users_service_config_is_kept(text: str, kind: type) -> None:
    (found,) = scaled((CONFIG, text if kind is str else text.encode()))

    assert isinstance(found, kind)
    assert json.loads(found) == json.loads(text) | scaling(3)


def test_the_rest_of_the_text_is_as_it_was() -> None:
    (found,) = scaled((CONFIG, RETRY))

    assert found.endswith(RETRY[2:])


def test_it_is_in_every_service_config_for_grpc_takes_one_of_them() -> None:
    assert [json.loads(text) for text in scaled((CONFIG, "{}"), ("grpc.x", 1), (CONFIG, b'{"a":1}'))] == [
        scaling(3),
        scaling(3) | {"a": 1},
    ]


MALFORMED_JSON = ["", "no json", "{", '{"a":1,}', "[]", "null", "5", b"\xff{}", "\ufeff{}", '{"a":' * 100_000]


@pytest.mark.parametrize("value", MALFORMED_JSON, ids=range(len(MALFORMED_JSON)))
def test_a_malformed_service_config_is_left_to_grpc(value: str | bytes) -> None:
    assert scaled((CONFIG, value)) == [value]


@pytest.mark.parametrize("value", [json.dumps(scaling(3)), b'{"a": 1, "connectionScaling": null}'])
def test_two_who_say_how_many_connections_there_are_are_refused(value: str | bytes) -> None:
    with pytest.raises(ConfigError, match=r"connections_per_member: .*connectionScaling") as caught:
        scaled((CONFIG, value))
    assert caught.value.field == "connections_per_member"


def test_a_service_config_that_grpc_would_ignore_is_refused() -> None:
    with pytest.raises(ConfigTypeError, match=r"options: grpc\.service_config .*JSON"):
        scaled((CONFIG, 5))


def test_what_the_pool_puts_into_the_service_config_is_no_option_of_the_users() -> None:
    made = config(options=[(CONFIG, "{}")], connections_per_member=3)

    assert made.options == ((CONFIG, "{}"),)
    assert dataclasses.replace(made, size=2).channel_options() == made.channel_options()
    assert "connections_per_member=3" in repr(made)
