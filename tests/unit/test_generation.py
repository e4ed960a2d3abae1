"""Generations, and strategies that misbehave."""

from __future__ import annotations

import random
from typing import Any

import pytest

from grpcpool import affinity
from grpcpool.core.member import Member
from grpcpool.strategies import RoundRobin

from .helpers import Keyed, builder


class Custom:
    """A strategy whose picker is what it is told to be."""

    def __init__(self, *pickers: Any) -> None:
        self.pickers = list(pickers)

    def build(self, members: Any, *, rng: random.Random, clock: Any) -> Any:
        picker = self.pickers.pop(0)
        if isinstance(picker, Exception):
            raise picker
        return picker


MEMBERS = tuple(Member(number, "a") for number in range(3))


def test_a_strategy_that_raises_in_build_leaves_the_previous_picker() -> None:
    problems: list[str] = []
    make = builder(Custom(lambda: MEMBERS[1], RuntimeError("bad day")), problems)
    assert make.build(MEMBERS, ()).pick() is MEMBERS[1]
    generation = make.build(MEMBERS, ())
    assert generation.pick() is MEMBERS[1]
    assert problems == ["build() raised RuntimeError"]


def test_the_previous_picker_may_not_pick_who_has_left() -> None:
    problems: list[str] = []
    make = builder(Custom(lambda: MEMBERS[0], RuntimeError("bad day")), problems)
    make.build(MEMBERS, ())
    generation = make.build(MEMBERS[1:], ())
    assert {generation.pick() for _ in range(4)} == set(MEMBERS[1:])


@pytest.mark.parametrize("picker", [RuntimeError("bad day"), 42])
def test_a_strategy_that_never_built_anything_is_replaced_by_a_rotation(picker: Any) -> None:
    problems: list[str] = []
    generation = builder(Custom(picker), problems).build(MEMBERS, ())
    assert {generation.pick() for _ in range(3)} == set(MEMBERS)
    assert len(problems) == 1


@pytest.mark.parametrize("wrong", [Member(9, "foreign"), None, [], RuntimeError("bad day")])
def test_a_picker_that_returns_a_stranger_or_raises_is_overruled(wrong: Any) -> None:
    problems: list[str] = []

    def picker() -> Any:
        if isinstance(wrong, Exception):
            raise wrong
        return wrong

    generation = builder(Custom(picker), problems).build(MEMBERS, ())
    assert {generation.pick() for _ in range(3)} == set(MEMBERS)
    assert len(problems) == 1, "and it is said once"


def test_without_a_connected_member_rpcs_take_turns_on_the_others_and_others_are_told() -> None:
    make = builder(RoundRobin(), [])
    generation = make.build((), MEMBERS)
    assert generation.members == ()
    assert [generation.pick() for _ in range(4)] == [*MEMBERS, MEMBERS[0]]
    with pytest.raises(LookupError):
        generation.pick_connected()
    with pytest.raises(LookupError):
        make.build((), ()).pick()
    assert "of 3 members" in repr(make.build(MEMBERS, ()))


# --- keys


def test_pickers_that_route_by_key_are_given_the_key_in_force() -> None:
    strategy = Keyed()
    generation = builder(strategy).build(MEMBERS, ())
    generation.pick()
    with affinity("outer"):
        generation.pick()
        with affinity(b"inner"):
            assert generation.pick() is MEMBERS[0]
        generation.pick_connected()
    generation.pick()
    assert strategy.keys == [None, "outer", b"inner", "outer", None]


def test_pickers_that_do_not_are_given_nothing() -> None:
    generation = builder(Custom(iter(MEMBERS).__next__)).build(MEMBERS, ())
    with affinity("mine"):
        assert [generation.pick() for _ in MEMBERS] == list(MEMBERS)
