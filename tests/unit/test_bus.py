"""What the bus delivers, and what becomes of listeners that raise."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest

from grpcpool import events
from grpcpool.core.bus import Bus
from grpcpool.core.member import Member


def test_listeners_get_every_event_in_order_and_the_log_first() -> None:
    heard: list[Any] = []
    bus = Bus("p", [lambda e: heard.append(("one", e))], log=lambda e: heard.append(("log", e)), on_error=pytest.fail)
    late = lambda e: heard.append(("two", e))  # noqa: E731
    event = events.Closed(pool="p", open_for=1.0)
    bus.add(late)
    bus.emit(event)
    bus.remove(late)
    bus.remove(late)
    bus.emit(event)
    assert [who for who, _ in heard] == ["log", "one", "two", "log", "one"]


def test_a_listener_that_raises_is_counted_reported_once_and_harmless() -> None:
    heard: list[Any] = []
    reported: list[Any] = []

    def bad(event: events.Event) -> NoReturn:
        raise RuntimeError("listener")

    bus = Bus("p", [bad, heard.append], log=lambda e: None, on_error=lambda who, error: reported.append(who))
    for _ in range(3):
        bus.emit(events.Closed(pool="p", open_for=1.0))
    assert len(heard) == 3
    assert bus.errors == 3
    assert reported == [bad]


def test_ctrl_c_in_a_listener_is_not_the_listeners_and_everything_else_is() -> None:
    def leave(event: events.Event) -> NoReturn:
        raise SystemExit

    def interrupted(event: events.Event) -> NoReturn:
        raise KeyboardInterrupt

    bus = Bus("p", [leave, interrupted], log=lambda e: None, on_error=lambda who, error: None)
    with pytest.raises(KeyboardInterrupt):
        bus.emit(events.Closed(pool="p", open_for=1.0))
    assert bus.errors == 1


def test_a_log_that_raises_stops_nothing() -> None:
    def log(event: events.Event) -> NoReturn:
        raise RuntimeError("a filter of the user's")

    heard: list[events.Event] = []
    bus = Bus("p", [heard.append], log=log, on_error=pytest.fail)
    bus.emit(events.Closed(pool="p", open_for=1.0))
    assert len(heard) == bus.errors == 1


@pytest.mark.parametrize(("rate", "expected"), [(1, 12), (3, 4), (0, 0)])
def test_picks_are_sampled(rate: int, expected: int) -> None:
    heard: list[Any] = []
    member = Member(7, "a")
    bus = Bus("p", [heard.append], log=pytest.fail, on_error=pytest.fail)
    pick = bus.sampled(lambda: member, rate)
    assert [pick() for _ in range(12)] == [member] * 12
    assert heard == [events.Picked(pool="p", member=7, endpoint="a")] * expected


def test_without_a_listener_a_pick_is_the_pick_itself() -> None:
    pick = lambda: Member(0, "a")  # noqa: E731
    assert Bus("p", [], log=pytest.fail, on_error=pytest.fail).sampled(pick, 1) is pick
