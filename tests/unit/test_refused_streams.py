"""RPCs that a server refused to look at are sent again, where nothing can be done twice."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from grpcpool.core.member import UNLIMITED
from grpcpool.core.messages import Open
from grpcpool.failover import Failover
from grpcpool.outcome import LONGEST_REST, RESENDS, left, refused, rest
from grpcpool.sync.channel import CountedChannel
from grpcpool.sync.line import Line

from .world import Room

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
# As grpcio 1.85 words it.
REFUSAL = "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))"


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (UNAVAILABLE, REFUSAL, True),
        (UNAVAILABLE, REFUSAL.replace("7", "2"), False),
        (UNAVAILABLE, f"backend: {REFUSAL}", False),
        (UNAVAILABLE, "failed to connect", False),
        (UNAVAILABLE, "", False),
        (UNAVAILABLE, None, False),
        (grpc.StatusCode.INTERNAL, REFUSAL, False),
        (grpc.StatusCode.OK, None, False),
        (None, REFUSAL, False),
    ],
)
def test_only_a_refused_stream_is_one(code: grpc.StatusCode | None, details: str | None, expected: bool) -> None:
    assert refused(code, details) is expected


def test_what_is_left_of_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpcpool.outcome.monotonic", lambda: 103.0)
    assert left(None, 100.0) is None
    assert left(5.0, 100.0) == 2.0
    assert left(3.0, 100.0) == 0
    assert left(1.0, 100.0) == 0


class Refusal(grpc.RpcError):  # type: ignore[misc]
    def code(self) -> grpc.StatusCode:
        return UNAVAILABLE

    def details(self) -> str:
        return REFUSAL


class Down(Refusal):
    def details(self) -> str:
        return "failed to connect"


class Channel:
    """In the place of one of grpc's: its blocking RPCs fail as they shall, and then succeed."""

    def __init__(self, errors: list[Exception]) -> None:
        self.errors = errors
        self.timeouts: list[float | None] = []

    def unary_unary(self, *_: Any, **__: Any) -> Channel:
        return self

    stream_unary = unary_unary

    def __call__(self, request: Any, timeout: float | None = None, *_: Any) -> bytes:
        self.timeouts.append(timeout)
        if self.errors:
            raise self.errors.pop(0)
        return b""

    with_call = __call__


@pytest.fixture(autouse=True)
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was rested, without resting."""
    rested: list[float] = []
    monkeypatch.setattr("grpcpool.sync.method.sleep", rested.append)
    return rested


def test_an_rpc_rests_longer_each_time_but_not_beyond_its_deadline() -> None:
    for number in range(1, 30):
        seconds = min(0.005 * 2 ** (number - 1), LONGEST_REST)
        assert seconds / 2 <= rest(number, None) <= seconds
    assert rest(7, 0.001) == 0.001
    assert rest(1, 0) == 0


def calling(errors: list[Exception], cap: int = 1) -> tuple[Room, Channel, CountedChannel]:
    room = Room(policy={"cap": cap})
    room.tell(Open())
    inner = Channel(errors)
    for member in room.connect_all():
        member.channel = inner
    suspect: list[Any] = []
    line = Line(room.engine, 0.0)
    failover = Failover(room.engine, None, lambda member: True)
    return room, inner, CountedChannel(room.engine, line, room.engine.norms, suspect.append, failover, None)  # type: ignore[arg-type]


every_way = pytest.mark.parametrize("how", ["__call__", "with_call"])


@every_way
@pytest.mark.parametrize("times", range(RESENDS + 1))
def test_a_blocking_unary_rpc_is_sent_again_as_often_as_is_said(how: str, times: int, rests: list[float]) -> None:
    room, inner, channel = calling([Refusal() for _ in range(times)])
    assert getattr(channel.unary_unary("/m"), how)(b"x") == b""
    assert len(inner.timeouts) == times + 1
    assert len(rests) == room.engine.stats().resent == times
    members = room.engine.generation.members
    assert sum(member.picks for member in members) == 1
    assert sum(member.failures for member in members) == 0
    assert [member.in_flight for member in members] == [0, 0]


@every_way
def test_each_time_it_has_what_is_left_of_its_timeout(how: str) -> None:
    _, inner, channel = calling([Refusal(), Refusal()])
    getattr(channel.unary_unary("/m"), how)(b"x", 5.0)
    first, second, third = (timeout or 0 for timeout in inner.timeouts)
    assert 5.0 == first > second > third > 4.0


@every_way
def test_one_that_is_refused_too_often_fails_as_grpc_says(how: str) -> None:
    room, inner, channel = calling([Refusal() for _ in range(20)])
    with pytest.raises(Refusal):
        getattr(channel.unary_unary("/m"), how)(b"x")
    assert len(inner.timeouts) == RESENDS + 1
    assert [member.in_flight for member in room.engine.generation.members] == [0, 0]


@every_way
def test_nothing_else_is_sent_again(how: str) -> None:
    _, inner, channel = calling([Down()])
    with pytest.raises(Down):
        getattr(channel.unary_unary("/m"), how)(b"x")
    assert len(inner.timeouts) == 1


@every_way
def test_a_stream_of_requests_is_not_sent_again(how: str) -> None:
    _, inner, channel = calling([Refusal()])
    with pytest.raises(Refusal):
        getattr(channel.stream_unary("/m"), how)(iter([b"x"]))
    assert len(inner.timeouts) == 1


@every_way
def test_without_a_limit_nothing_is_sent_again(how: str) -> None:
    _, inner, channel = calling([Refusal()], cap=UNLIMITED)
    with pytest.raises(Refusal):
        getattr(channel.unary_unary("/m"), how)(b"x")
    assert len(inner.timeouts) == 1


@every_way
def test_metadata_that_can_be_read_only_once_is_not_sent_again_without_it(how: str) -> None:
    _, inner, channel = calling([Refusal()])
    with pytest.raises(Refusal):
        getattr(channel.unary_unary("/m"), how)(b"x", metadata=iter([("authorization", "x")]))
    assert len(inner.timeouts) == 1


@every_way
def test_one_whose_channel_is_closed_while_it_rests_ends_as_refused(how: str) -> None:
    room, inner, channel = calling([Refusal(), ValueError("Cannot invoke RPC on closed channel!")])
    with pytest.raises(Refusal) as caught:
        getattr(channel.unary_unary("/m"), how)(b"x")
    assert isinstance(caught.value.__cause__, ValueError)
    assert len(inner.timeouts) == 2
    assert [member.in_flight for member in room.engine.generation.members] == [0, 0]
