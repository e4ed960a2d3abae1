"""The option `affinity_header`: what it may be, and which strategies it goes with."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import grpcpool
from grpcpool import ConfigError, ConfigTypeError, PoolConfig
from grpcpool.core.affinity import KeyedSource, announced
from grpcpool.core.generation import Generation
from grpcpool.core.member import Member as MemberOfPool
from grpcpool.keys import Key, current_key
from grpcpool.strategies import Clock, ConsistentHash, Member, RoundRobin

TARGET = "localhost:50051"

ROOMS = pytest.mark.parametrize("room", [grpcpool, grpcpool.aio], ids=["sync", "aio"])


class Keyed:
    keyed = True

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> Callable[..., Member]:
        return lambda key=None: members[0]


@pytest.mark.parametrize("name", ["x", "x-user-id", "user.id", "user_id", "0", "key-bin", "grpc", "grpcx-key"])
def test_what_grpc_sends_is_a_name(name: str) -> None:
    assert PoolConfig(target=TARGET, affinity_header=name).affinity_header == name


def test_none_is_the_default() -> None:
    assert PoolConfig(target=TARGET).affinity_header is None


@pytest.mark.parametrize(
    "name", ["", "X-User", "x user", "x:user", ":path", "ключ", "x-user\n", "\ud800", "grpc-", "grpc-timeout"]
)
def test_what_grpc_does_not_send_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match=r"lower-case letters, digits, .*, and not .* 'grpc-'") as caught:
        PoolConfig(target=TARGET, affinity_header=name)
    assert (caught.value.field, caught.value.value) == ("affinity_header", repr(name))


@pytest.mark.parametrize("wrong", [b"x-user", 5, True, ["x-user"]])
def test_it_is_text(wrong: Any) -> None:
    with pytest.raises(ConfigTypeError, match=r"affinity_header: .* or None"):
        PoolConfig(target=TARGET, affinity_header=wrong)


@ROOMS
@pytest.mark.parametrize("strategy", ["round_robin", RoundRobin()], ids=["by name", "an object"])
def test_a_strategy_that_asks_for_no_keys_refuses_it(room: ModuleType, strategy: Any) -> None:
    with pytest.raises(ConfigError, match="needs a strategy that routes by key, such as 'consistent_hash'") as caught:
        room.insecure_channel(TARGET, strategy=strategy, affinity_header="x-user", name="refused")
    assert (caught.value.field, caught.value.value) == ("affinity_header", "'x-user'")
    assert ("'round_robin'" if isinstance(strategy, str) else "RoundRobin") in caught.value.allowed
    with pytest.raises(grpcpool.UnknownPool):
        grpcpool.get_pool("refused")


@ROOMS
def test_so_does_the_default(room: ModuleType) -> None:
    with pytest.raises(ConfigError, match="'round_robin' takes no notice of keys"):
        room.insecure_channel(TARGET, affinity_header="x-user")


@ROOMS
def test_a_strategy_that_does_not_exist_is_what_is_wrong_then(room: ModuleType) -> None:
    with pytest.raises(ConfigError, match="strategy: 'no_such' is not allowed"):
        room.insecure_channel(TARGET, strategy="no_such", affinity_header="x-user")


@ROOMS
@pytest.mark.parametrize("make", [lambda: "consistent_hash", ConsistentHash, Keyed], ids=["name", "object", "own"])
def test_one_that_asks_for_keys_takes_it(room: ModuleType, make: Callable[[], Any]) -> None:
    pool = room.insecure_channel(TARGET, strategy=make(), affinity_header="x-user")
    assert pool.config.affinity_header == "x-user"


def test_the_environment_and_a_file_can_say_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("pydantic_settings")
    monkeypatch.setenv("GRPCPOOL_TARGET", TARGET)
    monkeypatch.setenv("GRPCPOOL_AFFINITY_HEADER", "x-user")
    file = tmp_path / "service.toml"
    file.write_text(f'[grpcpool]\ntarget = "{TARGET}"\naffinity_header = "x-user"\n')

    assert PoolConfig.from_env().affinity_header == "x-user"
    assert PoolConfig.from_file(file).affinity_header == "x-user"
    monkeypatch.setenv("GRPCPOOL_AFFINITY_HEADER", "X-User")
    with pytest.raises(ConfigError, match="GRPCPOOL_AFFINITY_HEADER: 'X-User' is not allowed"):
        PoolConfig.from_env()


# --- what is announced


def test_it_holds_for_picks_and_until_the_block_ends() -> None:
    seen: list[Key | None] = []
    member = MemberOfPool(1, TARGET)

    def pick() -> MemberOfPool:
        seen.append(current_key())
        return member

    source: Any = SimpleNamespace(generation=Generation((member,), pick, pick))
    picking = KeyedSource(source).generation.pick
    with announced("x-user", [("x-user", "outer")]):
        with announced("x-user", [("x-user", "inner")]):
            assert picking() is member
        # A garbage collection may run one RPC in the middle of another.
        picking()
        seen.append(current_key())
    picking()
    assert seen == ["inner", "outer", None, None]


# --- metadata on its way through


@pytest.mark.parametrize("metadata", [None, (), [], [("x-user", "a")], (("x-user",),), {"x-user": "a"}, "ab", 0])
def test_metadata_that_can_be_read_again_goes_through_as_it_is(metadata: Any) -> None:
    with announced("x-user", metadata) as passed_on:
        assert passed_on is metadata


def test_metadata_that_can_be_read_once_goes_through_whole() -> None:
    class Once:
        def __init__(self) -> None:
            self._pairs = iter([("a", "1"), ("x-user", "b"), ("c", "2")])

        def __iter__(self) -> Any:
            return self._pairs

    for metadata in (iter(Once()), Once()):
        with announced("x-user", metadata) as passed_on:
            assert list(passed_on) == [("a", "1"), ("x-user", "b"), ("c", "2")]


def test_what_the_users_own_iterator_raises_comes_out() -> None:
    def faulty() -> Any:
        yield ("a", "1")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), announced("x-user", faulty()):
        pass
