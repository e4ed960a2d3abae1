"""What is picked under a key that stands in the metadata, with an engine and no network."""

from __future__ import annotations

from typing import Any

import pytest

from grpcpool import affinity
from grpcpool.core.affinity import KeyedSource, announced
from grpcpool.core.lease import Lease
from grpcpool.core.messages import Open
from grpcpool.keys import Key

from .helpers import Keyed
from .world import Room

HEADER = "x-user"


@pytest.fixture
def strategy() -> Keyed:
    return Keyed()


@pytest.fixture
def source(strategy: Keyed) -> KeyedSource:
    room = Room(strategy=strategy)
    room.tell(Open())
    room.connect_all()
    return KeyedSource(room.engine)


def begin(source: KeyedSource) -> Lease:
    lease = Lease()
    assert source.attempt(lease)
    return lease


def test_leases_and_picks_are_made_under_the_key(source: KeyedSource, strategy: Keyed) -> None:
    with announced(HEADER, [("other", "x"), (HEADER, "mine"), (HEADER, "second")]):
        lease = begin(source)
        assert source.generation.pick() is lease.member
    assert lease.member.in_flight == 1
    begin(source)
    assert strategy.keys == ["mine", "mine", None]


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        ([(HEADER, b"\xff")], b"\xff"),
        ([(HEADER.encode(), "by bytes")], "by bytes"),
        ([(b"\xff", "x"), (HEADER, "mine")], "mine"),
        ([(HEADER,), 5, (HEADER, "mine")], "mine"),
    ],
)
def test_a_key_is_found_in_whatever_grpc_is_given(
    source: KeyedSource, strategy: Keyed, metadata: Any, key: Key
) -> None:
    with affinity("outer"), announced(HEADER, metadata):
        begin(source)
    assert strategy.keys == [key]


@pytest.mark.parametrize("value", ["", b"", None, 42, "\ud800"], ids=ascii)
def test_what_is_no_key_counts_as_none(source: KeyedSource, strategy: Keyed, value: Any) -> None:
    with affinity("outer"), announced(HEADER, [(HEADER, value), (HEADER, "second")]):
        begin(source)
    assert strategy.keys == ["outer"]
