"""The options about health: what they refuse, and how they get to where decisions are made."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import grpcpool
from grpcpool import ConfigError, PoolConfig
from grpcpool.core.slot import Policy

DEFAULTS = {
    "max_consecutive_failures": 5,
    "min_success_rate": 0.8,
    "health_window": 30.0,
    "outlier_detection": True,
    "unresponsive_after": 1.0,
    "ejection_min": 5.0,
    "ejection_max": 300.0,
    "slow_start": 5.0,
    "health_check": None,
}


def policy(**options: Any) -> Policy:
    with grpcpool.insecure_channel("localhost:1", **options) as pool:
        found: Policy = pool._room.engine.machine.policy
        return found


def test_the_defaults() -> None:
    made = PoolConfig(target="a:1")
    assert {name: getattr(made, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("max_consecutive_failures", 0, "an integer of 1 or more"),
        ("max_consecutive_failures", True, "an integer of 1 or more"),
        ("max_consecutive_failures", 2.5, "an integer of 1 or more"),
        ("min_success_rate", 0, "a rate above 0, and 1 at most, or None"),
        ("min_success_rate", 1.01, "a rate above 0, and 1 at most, or None"),
        ("min_success_rate", float("nan"), "a rate above 0, and 1 at most, or None"),
        ("min_success_rate", "80%", "a rate above 0, and 1 at most, or None"),
        ("min_success_rate", True, "a rate above 0, and 1 at most, or None"),
        ("health_window", 0, "seconds above 0"),
        ("health_window", None, "seconds above 0"),
        ("outlier_detection", None, "True or False"),
        ("unresponsive_after", 0, "seconds above 0, or None for never"),
        ("ejection_min", -1, "seconds above 0"),
        ("ejection_max", 4.9, "seconds, 5 or more"),
        ("slow_start", 0.0, "seconds above 0, or None for never"),
        ("health_check", True, "the name of a service, '' for the server as a whole, or None"),
        ("health_check", b"echo", "the name of a service, '' for the server as a whole, or None"),
    ],
)
def test_what_is_refused(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PoolConfig(target="a:1", **{name: value})
    assert (caught.value.field, caught.value.allowed) == (name, allowed)


def test_a_health_check_that_nothing_is_installed_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "grpc_health" else real(name))
    with pytest.raises(ConfigError, match=r"pip install 'grpcpool\[health\]'"):
        PoolConfig(target="a:1", health_check="echo")


def test_each_option_gets_to_where_it_is_used() -> None:
    options: dict[str, Any] = {
        "max_consecutive_failures": 3,
        "min_success_rate": 0.5,
        "health_window": 10.0,
        "outlier_detection": False,
        "unresponsive_after": 2.0,
        "ejection_min": 1.0,
        "ejection_max": 60.0,
        "slow_start": 7.0,
        "ping_timeout": 4.0,
    }
    found = policy(**options)
    assert {name: getattr(found, name) for name in options} == options
    assert found.watched is False


def test_each_layer_can_be_switched_off() -> None:
    off: dict[str, Any] = dict.fromkeys(
        ("max_consecutive_failures", "min_success_rate", "unresponsive_after", "slow_start")
    )
    found = policy(outlier_detection=False, **off)
    assert {name: getattr(found, name) for name in off} == off
    assert found.outlier_detection is False


def test_a_server_may_be_asked_about_the_whole_of_it() -> None:
    assert policy(health_check="").watched is True


def test_text_can_say_all_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("pydantic_settings")
    monkeypatch.setenv("APP_TARGET", "a:1")
    monkeypatch.setenv("APP_MAX_CONSECUTIVE_FAILURES", "none")
    monkeypatch.setenv("APP_MIN_SUCCESS_RATE", "0.5")
    monkeypatch.setenv("APP_OUTLIER_DETECTION", "false")
    monkeypatch.setenv("APP_HEALTH_CHECK", "echo")
    made = PoolConfig.from_env("APP_")
    assert (made.max_consecutive_failures, made.min_success_rate) == (None, 0.5)
    assert (made.outlier_detection, made.health_check) == (False, "echo")
    file = tmp_path / "pool.toml"
    file.write_text('[pool]\ntarget = ["a:1"]\nslow_start = 2.5\nunresponsive_after = 3.0\nejection_max = 30.0\n')
    made = PoolConfig.from_file(file, "pool")
    assert (made.slow_start, made.unresponsive_after, made.ejection_max) == (2.5, 3.0, 30.0)
