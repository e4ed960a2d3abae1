"""One who knows one pool knows both: the public names and signatures of the two, compared."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool import aio, sync

# What grpc itself gives to one kind of channel and not to the other.
ONLY_SYNC = {"subscribe", "unsubscribe"}
ONLY_AIO = {"get_state", "wait_for_state_change", "channel_ready"}
COROUTINES = {
    "open",
    "close",
    "wait_ready",
    "scale_up",
    "scale_down",
    "resize",
    "wait_for_state_change",
    "channel_ready",
}


def public(thing: type) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def signature(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def test_both_pools_have_the_same_names() -> None:
    assert public(sync.ChannelPool) - ONLY_SYNC == public(aio.ChannelPool) - ONLY_AIO
    assert public(sync.ChannelPool) >= ONLY_SYNC
    assert public(aio.ChannelPool) >= ONLY_AIO


@pytest.mark.parametrize("name", sorted(public(sync.ChannelPool) - ONLY_SYNC - {"config"}))
def test_both_take_the_same_arguments(name: str) -> None:
    one, other = getattr(sync.ChannelPool, name), getattr(aio.ChannelPool, name)
    assert signature(one) == signature(other)
    assert not inspect.iscoroutinefunction(one)
    assert inspect.iscoroutinefunction(other) == (name in COROUTINES)


@pytest.mark.parametrize("name", ["insecure_channel", "secure_channel"])
def test_the_factories_differ_by_what_grpcs_differ(name: str) -> None:
    one, other = signature(getattr(grpcpool, name)), signature(getattr(aio, name))
    assert [parameter for parameter in other if parameter[0] != "interceptors"] == one


@pytest.mark.parametrize(
    ("ours", "grpcs"), [(sync.ChannelPool, grpc.Channel), (aio.ChannelPool, grpc.aio.Channel)], ids=["sync", "aio"]
)
def test_nothing_that_grpcs_channel_has_is_missing(ours: type, grpcs: type) -> None:
    assert public(grpcs) <= public(ours)
    for name in public(grpcs):
        theirs = [parameter.name for parameter in inspect.signature(getattr(grpcs, name)).parameters.values()]
        mine = [parameter.name for parameter in inspect.signature(getattr(ours, name)).parameters.values()]
        assert mine[: len(theirs)] == theirs, name


@pytest.mark.parametrize("package", [grpcpool, aio])
def test_all_names_exist(package: Any) -> None:
    assert all(hasattr(package, name) for name in package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)
