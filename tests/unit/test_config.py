"""`PoolConfig`: checked once, and frozen."""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType
from typing import Any

import grpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import grpcpool
from grpcpool import ConfigError, ConfigTypeError, Endpoint, PoolConfig

TARGET = "localhost:50051"
SECRET = "s3cret-t0ken"

ROOMS = pytest.mark.parametrize("room", [grpcpool, grpcpool.aio], ids=["sync", "aio"])


def config(**fields: Any) -> PoolConfig:
    return PoolConfig(**{"target": TARGET, **fields})


# --- wrong values

SECONDS = (
    "keepalive_time",
    "keepalive_timeout",
    "ping_interval",
    "ping_timeout",
    "connect_timeout",
    "backoff_min",
    "backoff_max",
    "telemetry_interval",
)
OPTIONAL_SECONDS = {"keepalive_time", "ping_interval", "telemetry_interval"}
HUGE = 10**400

WRONG: list[tuple[str, object, str]] = [
    *((field, value, "seconds") for field in SECONDS for value in (0, -1, -0.5, math.nan, math.inf, "1", True, HUGE)),
    *((field, None, "seconds") for field in SECONDS if field not in OPTIONAL_SECONDS),
    ("backoff_min", 0.05, "0.1 or more"),
    ("backoff_max", 0.5, "1 or more"),
    *(("size", value, "an integer of 1 or more") for value in (0, -1, "3", 2.0, True)),
    *(("max_reconnect_attempts", value, "an integer of 1 or more") for value in (0, -1, "3", 2.0, None, True)),
    *(("connections_per_member", value, "an integer of 1 or more") for value in (0, -1, "3", 2.0, True, 2**31)),
    *(("telemetry_sample_rate", value, "an integer of 0 or more") for value in (-1, "3", 0.5, None, False)),
    *(("seed", value, "an integer") for value in ("3", 0.5, True)),
    *(("name", value, "text") for value in ("", 5, b"pool")),
    *(
        (field, value, "True or False")
        for field in ("log_connection_errors", "require_tls")
        for value in (1, "no", None)
    ),
    *(("strategy", value, "a name, or an object with a build") for value in (5, None, object())),
    *(("listeners", value, "") for value in (5, [print, 5], "x")),
    *(("interceptors", value, "an iterable") for value in (5, object())),
    *(("target", value, "target") for value in (None, 5, [], [5], [TARGET, TARGET], [TARGET, Endpoint(TARGET)])),
    ("size", 1, "one member for each of the 2 targets"),
    *(("options", value, "") for value in (5, "grpc.x", [5], [("grpc.x",)], [(5, 5)], [("a", 1, 2)], {"grpc.x": 1})),
    *(("options", [("grpc.x", value)], "integers or text") for value in (None, [1], {}, (1,))),
    *(("compression", value, "") for value in ("gzip", 99, object())),
    *(("credentials", value, "ChannelCredentials") for value in ("text", 5, object(), False)),
]


def label(value: object) -> str:
    # An object's own text has its address in it, and the name of a test must be the same in every run.
    if value == HUGE:
        return "huge"
    return type(value).__name__ if type(value) is object else repr(value)


@pytest.mark.parametrize(
    ("field", "value", "allowed"), WRONG, ids=[f"{field}={label(value)}" for field, value, _ in WRONG]
)
def test_a_wrong_value_is_refused_with_the_field_and_what_is_allowed(field: str, value: object, allowed: str) -> None:
    targets = {"target": ["a:1", "b:1"]} if (field, value) == ("size", 1) else {}

    with pytest.raises(ConfigError) as caught:
        config(**targets, **{field: value})

    error = caught.value
    assert error.field == field
    assert str(error).startswith(f"{field}: {error.value} is not allowed; ")
    assert allowed in error.allowed
    assert isinstance(error, ValueError)
    assert isinstance(error, grpcpool.PoolError)


@pytest.mark.parametrize(
    ("field", "value"),
    [("size", "three"), ("ping_timeout", "soon"), ("strategy", 5), ("listeners", [5]), ("options", 5)],
)
def test_a_wrong_type_is_a_type_error_as_well(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=field):
        config(**{field: value})


@pytest.mark.parametrize(("field", "value"), [("size", -7), ("backoff_min", 0.01), ("name", ""), ("seed", "x")])
def test_the_value_is_in_the_message(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**{field: value})

    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("raw", [b"\xff:1", [b"localhost:1"]], ids=["not utf-8", "bytes in a list"])
def test_a_target_in_bytes_is_read_or_refused_but_never_a_raw_error(raw: Any) -> None:
    try:
        found = PoolConfig(target=raw)
    except ConfigError as error:
        assert error.field == "target"  # noqa: PT017
    else:
        assert found.endpoints == (Endpoint("localhost:1"),)


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf, True, "1", None])
def test_the_weight_of_an_endpoint_is_above_zero(weight: Any) -> None:
    with pytest.raises(ConfigError, match="weight"):
        Endpoint(TARGET, weight)


def test_defaults_leave_nothing_to_be_filled_in() -> None:
    assert config().member_count == 4
    assert config(target=[f"h{n}:1" for n in range(6)]).member_count == 6
    assert config(options=None, interceptors=None, listeners=None).options == ()


def test_a_configuration_is_frozen_and_checked_again_when_it_is_replaced() -> None:
    made = config(size=3)

    with pytest.raises(dataclasses.FrozenInstanceError):
        made.size = 5  # type: ignore[misc]
    assert dataclasses.replace(made, size=5).member_count == 5
    with pytest.raises(ConfigError, match="size"):
        dataclasses.replace(made, size=0)
    assert dataclasses.replace(made) == made


# --- unknown options


@pytest.mark.parametrize(
    "make",
    [
        PoolConfig.of,
        lambda fields: grpcpool.insecure_channel(**fields),
        lambda fields: grpcpool.aio.insecure_channel(**fields),
        lambda fields: grpcpool.secure_channel(credentials=grpc.ssl_channel_credentials(), **fields),
        lambda fields: grpcpool.aio.secure_channel(credentials=grpc.ssl_channel_credentials(), **fields),
        lambda fields: PoolConfig.local(sise=fields["sise"]),
        lambda fields: PoolConfig.production(host="h", sise=fields["sise"]),
    ],
    ids=["of", "insecure", "aio insecure", "secure", "aio secure", "local", "production"],
)
def test_an_unknown_option_is_refused_by_name_with_the_nearest(make: Any) -> None:
    with pytest.raises(ConfigTypeError, match=r"sise: .*did you mean 'size'"):
        make({"target": TARGET, "sise": 5})


def test_an_unknown_option_that_resembles_nothing_is_answered_with_the_list() -> None:
    with pytest.raises(ConfigTypeError, match=r"qqqq: .*max_reconnect_attempts"):
        PoolConfig.of({"target": TARGET, "qqqq": 5})


def test_the_constructor_names_an_unknown_option() -> None:
    with pytest.raises(TypeError, match="sise"):
        config(sise=5)


@ROOMS
def test_credentials_are_no_option_of_an_insecure_channel(room: ModuleType) -> None:
    with pytest.raises(TypeError, match="credentials"):
        room.insecure_channel(TARGET, credentials=grpc.ssl_channel_credentials())


# --- channel options and interceptors, refused by the factory


@pytest.mark.parametrize(
    "options",
    [
        (pair for pair in [("grpc.x", 1), ("grpc.y", "text")]),
        {"grpc.x": 1, "grpc.y": "text"}.items(),
        [(b"grpc.x", 1), (b"grpc.y", "text")],
        [["grpc.x", 1], ["grpc.y", "text"]],
        iter((("grpc.x", 1), ("grpc.y", "text"))),
    ],
    ids=["generator", "dict view", "bytes keys", "lists", "iterator"],
)
def test_options_may_be_any_iterable_of_pairs(options: Any) -> None:
    made = config(options=options)

    assert made.options == (("grpc.x", 1), ("grpc.y", "text"))
    assert made.channel_options()[:2] == made.channel_options()[:2] == made.options


def test_what_the_user_says_wins_over_what_the_pool_would_set() -> None:
    given = {"grpc.keepalive_time_ms": 77, "grpc.max_reconnect_backoff_ms": 88}
    found = config(options=given.items(), keepalive_time=10.0, backoff_max=60.0).channel_options()

    assert dict(found)["grpc.keepalive_time_ms"] == 77
    assert dict(found)["grpc.max_reconnect_backoff_ms"] == 88
    assert len(found) == len(dict(found))


@pytest.mark.parametrize("minimum", [0.1, 1.0, 20.0])
def test_an_eager_channel_tries_at_least_once_in_each_backoff_min(minimum: float) -> None:
    found = dict(config(backoff_min=minimum).channel_options(eager=True))
    pause = found["grpc.max_reconnect_backoff_ms"]
    assert pause == found["grpc.initial_reconnect_backoff_ms"]
    assert pause == found["grpc.dns_min_time_between_resolutions_ms"]
    # With grpc's own jitter.
    assert pause * 1.2 <= 1000 * minimum
    assert dict(config(backoff_min=minimum).channel_options())["grpc.max_reconnect_backoff_ms"] == 30_000


@pytest.mark.parametrize("key", ["grpc.use_local_subchannel_pool", b"grpc.use_local_subchannel_pool"])
@pytest.mark.parametrize("value", [0, False, "0", "1", b"1", 0.5, "", None])
def test_members_never_share_connections(key: Any, value: Any) -> None:
    # grpc ignores the argument unless it is an integer, and then all members share one connection.
    with pytest.raises(ConfigError, match="use_local_subchannel_pool"):
        config(options=[(key, value)])
    assert dict(config().channel_options())["grpc.use_local_subchannel_pool"] == 1


MALFORMED = {
    "not iterable": 5,
    "no pairs": [5],
    "name is a number": [(5, 5)],
    "name is not utf-8": [(b"\xff", 1)],
    "name has a surrogate": [("\ud800", 1)],
    "value is an object": [("grpc.x", object())],
    "value is too large": [("grpc.x", 2**31)],
    "value is too small": [("grpc.x", -(2**31) - 1)],
    "value has a surrogate": [("grpc.x", "\ud800")],
    "value is none": [("grpc.x", None)],
    "a dict": {"grpc.x": 1},
}


@ROOMS
@pytest.mark.parametrize("options", MALFORMED.values(), ids=MALFORMED.keys())
def test_the_factory_refuses_malformed_options_at_once(room: ModuleType, options: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"options|grpc\.x|surrogate|utf-8"):
        room.insecure_channel(TARGET, options)


@ROOMS
@pytest.mark.parametrize("interceptors", [5, [object()], [None], "text"], ids=["number", "object", "none", "text"])
def test_the_factory_refuses_malformed_interceptors_at_once(room: ModuleType, interceptors: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="interceptor"):
        room.insecure_channel(TARGET, interceptors=interceptors)


@ROOMS
@pytest.mark.parametrize(
    "credentials",
    [grpc.access_token_call_credentials(SECRET), grpc.ssl_server_credentials([(b"key", b"chain")]), None],
    ids=["call credentials", "server credentials", "none"],
)
def test_the_factory_refuses_what_cannot_secure_a_channel(room: ModuleType, credentials: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="credentials") as caught:
        room.secure_channel(TARGET, credentials)
    assert SECRET not in str(caught.value)


@ROOMS
@pytest.mark.parametrize("strategy", ["no_such_strategy", grpcpool.strategies.RoundRobin, 5])
def test_the_factory_refuses_what_is_no_strategy(room: ModuleType, strategy: Any) -> None:
    with pytest.raises(ConfigError, match="strategy"):
        room.insecure_channel(TARGET, strategy=strategy)


@ROOMS
def test_a_pool_is_made_from_a_configuration_only(room: ModuleType) -> None:
    with pytest.raises(ConfigTypeError, match="PoolConfig"):
        room.ChannelPool({"target": TARGET})


# --- hosts and ports


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("db", "db:7"),
        ("10.0.0.1", "10.0.0.1:7"),
        ("::1", "[::1]:7"),
        ("[::1]", "[::1]:7"),
        ("dns:///db", "dns:///db:7"),
    ],
)
def test_host_and_port_become_a_target(host: str, target: str) -> None:
    assert PoolConfig.local(host=host, port=7).endpoints == (Endpoint(target),)
    assert PoolConfig.production(host=host, port=7).endpoints == (Endpoint(target),)


def test_local_is_small_plaintext_and_near() -> None:
    made = PoolConfig.local()

    assert (made.endpoints, made.member_count, made.credentials) == ((Endpoint("localhost:9090"),), 3, None)


@pytest.mark.parametrize("make", [PoolConfig.local, PoolConfig.production], ids=["local", "production"])
@pytest.mark.parametrize("port", [0, -1, 65536, "80", 80.0, True, None])
def test_a_port_is_a_port(make: Any, port: Any) -> None:
    with pytest.raises(ConfigError, match="port"):
        make(host="db", port=port)


@pytest.mark.parametrize("make", [PoolConfig.local, PoolConfig.production], ids=["local", "production"])
@pytest.mark.parametrize("host", ["", 5, None, "http://db", "db:80", "unix:/run/db.sock"])
def test_a_host_is_a_host(make: Any, host: Any) -> None:
    with pytest.raises(ConfigError, match="host"):
        make(host=host)


# --- nothing else, whatever is thrown at it

anything: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5),
    st.lists(st.integers(), max_size=2), st.just(object()), st.sampled_from([HUGE, -HUGE, 1j]),
)  # fmt: skip
options_like = st.lists(st.tuples(st.one_of(st.text(max_size=4), st.binary(max_size=4)), anything), max_size=3)
fields_like = st.fixed_dictionaries(
    {"target": st.one_of(st.text(max_size=8), anything, st.lists(st.text(max_size=4), max_size=3))},
    optional={
        "options": st.one_of(options_like, anything),
        **{field.name: anything for field in dataclasses.fields(PoolConfig) if field.name not in ("target", "options")},
    },
)


@settings(max_examples=300)
@given(fields_like)
def test_any_values_make_a_configuration_or_a_config_error(fields: dict[str, Any]) -> None:
    try:
        made = PoolConfig(**fields)
    except ConfigError as error:
        # Credentials: none, where `require_tls` asks for some.
        assert error.field in {*fields, "weight", "backoff_max", "ejection_max", "credentials"}  # noqa: PT017
    else:
        assert made.member_count >= len(made.endpoints) >= 1
        assert repr(made).startswith("PoolConfig(target=")
        assert hash(made.channel_options())


@settings(max_examples=100)
@example(name="grpc.x", value="\ud800")
@example(name="grpc.x", value=2**31)
@given(name=st.text(max_size=4), value=st.one_of(st.integers(), st.text(max_size=4), st.floats(), st.just(object())))
def test_an_option_that_grpc_refuses_is_refused_by_the_pool_just_as_early(name: str, value: Any) -> None:
    try:
        grpc.insecure_channel(TARGET, options=[(name, value)]).close()
    except (TypeError, ValueError, OverflowError):
        with pytest.raises((TypeError, ValueError)):
            grpcpool.insecure_channel(TARGET, options=[(name, value)])
