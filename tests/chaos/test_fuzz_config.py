"""Random values for every option of a pool: a valid configuration, or a `ConfigError` that names the option."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import grpcpool
from grpcpool import Endpoint, PoolConfig
from grpcpool.strategies import RoundRobin

FIELDS = [field.name for field in dataclasses.fields(PoolConfig)]


class Odd:
    """Has a repr that nobody should call."""

    def __repr__(self) -> str:
        raise AssertionError("a value of the user's was shown")


def noop(*_: object) -> None:
    pass


async def coroutine(*_: object) -> None:
    pass


# What somebody may write by mistake, or mean well with.
NUMBERS: list[Any] = [0, 1, 2, 3, 5, -1, 0.0, 0.1, 0.5, 1.0, 1e-9, 1e300, 2**31, 2**31 - 1, 10**400, -0.0]
NUMBERS += [math.inf, -math.inf, math.nan, True, False, 1 + 2j]
TEXTS: list[Any] = [
    "",
    "x",
    "localhost:50051",
    "\udc80",
    "\0",
    "round_robin",
    "power_of_two",
    "p95",
    "key",
    "*",
    "/a/b",
]
TEXTS += ["/a/*", b"", b"\xff", b"localhost:1"]
THINGS: list[Any] = [
    None,
    Odd(),
    object(),
    noop,
    coroutine,
    RoundRobin(),
    RoundRobin,
    grpcpool.Retry(),
    Endpoint("b:1"),
]
THINGS += [Endpoint("c:1", 3), grpc.Compression.Gzip, grpc.StatusCode.OK, grpc.ssl_channel_credentials()]
SCALARS = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from(THINGS),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.lists(st.tuples(SCALARS, SCALARS), max_size=2),
    st.tuples(SCALARS, SCALARS),
    st.builds(tuple, st.lists(SCALARS, max_size=3)),
    st.dictionaries(st.sampled_from(["*", "/a/b", "", "x"]), SCALARS, max_size=2),
    st.builds(iter, st.lists(SCALARS, max_size=2)),
)
# Bounded, and the same in every run; a failure is printed with the values that cause it.
FUZZ = settings(max_examples=250, derandomize=True, database=None)
# What a value can be at odds with, beside itself: either may be named.
RELATED = [
    {"size", "target", "min_size", "max_size", "target_in_flight", "max_idle", "max_concurrent_streams"},
    {"backoff_min", "backoff_max"},
    {"ejection_min", "ejection_max"},
    {"idempotent", "retry", "hedge_after"},
    {"credentials", "require_tls"},
    {"per_loop", "strategy"},
    {"options", "connections_per_member"},
]


def check(fields: dict[str, Any]) -> None:
    try:
        config = PoolConfig(**{"target": "localhost:50051", **fields})
    except grpcpool.ConfigError as error:
        refused = error
    else:
        check_valid(config)
        return
    assert refused.field in set(fields).union(*(related for related in RELATED if related & set(fields)))
    assert str(refused).startswith(f"{refused.field}: ")
    assert refused.allowed


def check_valid(config: PoolConfig) -> None:
    # What is valid can be shown, shared, and made members from.
    assert repr(config).startswith("PoolConfig(")
    assert config.member_count >= len(config.endpoints) >= 1
    assert all(isinstance(name, str) for name, _ in config.channel_options())
    again = PoolConfig(**{field: getattr(config, field) for field in FIELDS})
    assert [getattr(again, field) for field in FIELDS] == [getattr(config, field) for field in FIELDS] or _has_nan(
        config
    )


def _has_nan(config: PoolConfig) -> bool:
    return "nan" in repr(config)


@FUZZ
@given(field=st.sampled_from(FIELDS), value=VALUES)
def test_one_option(field: str, value: Any) -> None:
    check({field: value})


@FUZZ
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=2, max_size=6))
def test_several_options(fields: dict[str, Any]) -> None:
    check(fields)


def plausible(field: str) -> st.SearchStrategy[Any]:
    """Values of about the right kind, for what options mean together."""
    default = next(each for each in dataclasses.fields(PoolConfig) if each.name == field).default
    if isinstance(default, bool):
        return st.booleans()
    if field in ("strategy", "name", "health_check", "affinity_header", "target", "idempotent"):
        return st.sampled_from(["round_robin", "consistent_hash", "x", "*", "/a/b"])
    if field in ("options", "interceptors", "listeners", "credentials", "compression", "primer"):
        return st.sampled_from([(), None])
    if field == "target_in_flight":
        return st.none() | st.tuples(st.integers(0, 120), st.integers(0, 120))
    if field == "hedge_after":
        return st.sampled_from([None, 0.1, "p95", {"*": 1.0}, {"/a/b": None}])
    if field == "retry":
        return st.sampled_from([None, grpcpool.Retry(), {"*": grpcpool.Retry()}])
    return st.none() | st.integers(0, 6) | st.sampled_from([0.05, 0.2, 0.5, 1.0, 7.5])


@settings(FUZZ, max_examples=300)
@given(
    st.sets(st.sampled_from(FIELDS), min_size=1, max_size=8).flatmap(
        lambda names: st.fixed_dictionaries({name: plausible(name) for name in sorted(names)})
    )
)
def test_plausible_values_together(fields: dict[str, Any]) -> None:
    """What is accepted can also be opened: no combination comes through that blows up only then."""
    check(fields)
    try:
        config = PoolConfig(**{"target": "localhost:50051", **fields})
        pool = grpcpool.ChannelPool(dataclasses.replace(config, name=None))
    except grpcpool.ConfigError:
        return
    assert pool.status().expected_size == config.member_count
    pool.close()


@FUZZ
@given(st.text(min_size=1, max_size=8), VALUES)
def test_unknown_options(name: str, value: Any) -> None:
    if name not in FIELDS:
        with pytest.raises(grpcpool.ConfigError) as caught:
            grpcpool.insecure_channel("localhost:50051", **{name: value})
        assert caught.value.field == name
        assert isinstance(caught.value, TypeError)


LINES = st.sampled_from(
    ["", "1", "0", "-1", "0.5", "nan", "inf", "true", "off", "None", "null", "[]", "{}", "a,b", "1,2"]
)
LINES |= st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=6)


@settings(FUZZ, max_examples=80)
@given(
    st.dictionaries(
        st.sampled_from([field.upper() for field in FIELDS] + ["TLS", "CA_FILE", "SIZES"]), LINES, max_size=4
    )
)
def test_the_environment(lines: dict[str, str]) -> None:
    pytest.importorskip("pydantic_settings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAOS_TARGET", "localhost:50051")
        for name, line in lines.items():
            patch.setenv(f"CHAOS_{name}", line)
        try:
            config = PoolConfig.from_env("CHAOS_")
        except grpcpool.ConfigError as error:
            refused = error
        else:
            check_valid(config)
            return
        related = {each.upper() for each in set().union(*RELATED)} | set(lines)
        assert refused.field.upper().removeprefix("CHAOS_") in related, str(refused)
