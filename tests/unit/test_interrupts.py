"""Blocking RPCs whose end is interrupted are over all the same."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import grpc
import pytest

from grpcpool.core.member import Member
from grpcpool.core.messages import Open
from grpcpool.failover import Failover
from grpcpool.sync.channel import CountedChannel
from grpcpool.sync.line import Line

from .helpers import Diary
from .world import Room


class Refused(grpc.RpcError):  # type: ignore[misc]
    """An error that says its code."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INTERNAL


class Odd(grpc.RpcError):  # type: ignore[misc]
    """An error that has something else by that name."""

    code = 13


class Channel:
    """In the place of one of grpc's: its RPCs end at once, as they shall."""

    def __init__(self, error: type[Exception] | None) -> None:
        self.error = error

    def unary_unary(self, *_: Any, **__: Any) -> Channel:
        return self

    stream_unary = unary_unary

    def __call__(self, *_: Any) -> bytes:
        if self.error:
            raise self.error
        return b""

    with_call = __call__


class Struck(set[Hashable]):
    """RPCs in flight; when the first is about to be taken out, Ctrl-C strikes."""

    struck = False

    def remove(self, token: Hashable) -> None:
        if not self.struck:
            self.struck = True
            raise KeyboardInterrupt
        super().remove(token)


def metered(error: type[Exception] | None) -> tuple[Member, CountedChannel]:
    room = Room()
    room.tell(Open())
    room.connect_all()
    room.engine.generation.pick = lambda: member
    member = room.engine.generation.members[0]
    member.channel = Channel(error)
    member.observer = Diary()
    failover = Failover(room.engine, None, lambda member: True)
    line = Line(room.engine, None)
    return member, CountedChannel(room.engine, line, room.engine.norms, pytest.fail, failover, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary"])
@pytest.mark.parametrize("how", ["__call__", "with_call"])
@pytest.mark.parametrize("error", [None, Refused], ids=["answered", "failed"])
def test_an_rpc_is_over_although_ctrl_c_strikes_at_its_end(kind: str, how: str, error: type[Exception] | None) -> None:
    member, channel = metered(error)
    member.leases = Struck()
    with pytest.raises(KeyboardInterrupt):
        getattr(getattr(channel, kind)("/a/b"), how)(b"")
    assert member.in_flight == 0
    assert member.observer.kinds() == ["started", "dropped"]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary"])
@pytest.mark.parametrize("how", ["__call__", "with_call"])
def test_an_rpc_is_over_although_its_error_cannot_be_read(kind: str, how: str) -> None:
    member, channel = metered(Odd)
    with pytest.raises(TypeError) as caught:
        getattr(getattr(channel, kind)("/a/b"), how)(b"")
    assert isinstance(caught.value.__context__, Odd)
    assert member.in_flight == 0
    assert member.observer.kinds() == ["started", "dropped"]  # type: ignore[union-attr]
