"""A member that does badly is ejected for it only if the others do better: an overload is nobody's fault."""

from __future__ import annotations

import random

import pytest

from grpcpool import events
from grpcpool.core.outliers import RARE, is_chance, is_usual

from .world import World, connected

ROW = {"max_consecutive_failures": 5}
RATE = {"min_success_rate": 0.8, "health_window": 30.0}


def pool(size: int, **policy: object) -> World:
    world = connected("a", size=size, **policy)
    world.pass_time(2)
    return world


def overload(world: World, share: float, seconds: int, rps: int = 200, seed: int = 5) -> None:
    """Let that share of the RPCs fail everywhere, at random."""
    chance = random.Random(seed)
    for _ in range(seconds * 10):
        for _ in range(rps // 10):
            world.call(chance.choice(world.ready), "failed" if chance.random() < share else "answered")
        world.pass_time(0.1)


@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_what_fails_everywhere_ejects_nobody(size: int, share: float, seed: int) -> None:
    world = pool(size, **ROW, **RATE)
    overload(world, share, 20, seed=seed)
    assert world.told(events.Ejected) == []


def test_a_dead_member_is_found_although_a_fifth_fails_on_the_others() -> None:
    world = pool(4, **ROW, **RATE)
    bad, *others = world.ready
    for number in range(60):
        for other in others:
            world.call(other, "failed" if number % 5 == 0 else "answered")
    world.call(bad, "failed", 8)
    assert bad in world.ready
    world.call(bad, "failed")
    world.pass_time(1.1)
    assert bad not in world.ready
    (told,) = world.told(events.Ejected)
    assert told.reason == "9 RPCs in a row failed"


def test_dead_members_are_found_although_they_are_more_than_half() -> None:
    world = pool(8, **ROW, **RATE)
    dead, alive = world.ready[:5], world.ready[5:]
    for _ in range(60):
        for member in dead:
            if member in world.ready:
                world.call(member, "failed", 2)
        for member in alive:
            world.call(member, "answered", 2)
        world.pass_time(0.25)
    assert len(world.ready) == 4
    assert set(alive) <= set(world.ready)


def test_a_low_rate_is_compared_with_that_of_the_others() -> None:
    world = pool(3, **RATE)
    bad, *others = world.ready
    for other in others:
        world.call(other, "answered", 170)
        world.call(other, "failed", 30)
    world.call(bad, "answered", 144)
    world.call(bad, "failed", 56)
    world.pass_time(2)
    assert world.told(events.Ejected) == []
    world.call(bad, "failed", 10)
    world.pass_time(2)
    (told,) = world.told(events.Ejected)
    assert (told.member, told.reason) == (bad.id, "69% of its RPCs succeeded in the last 30 s (at least 80%)")


def test_a_row_that_could_be_chance_must_be_longer() -> None:
    world = pool(3, **ROW, **RATE)
    bad, *others = world.ready
    for other in others:
        world.call(other, "answered", 9)
        world.call(other, "failed")
    world.call(bad, "failed", 5)
    world.pass_time(1.1)
    assert bad in world.ready
    world.call(bad, "failed")
    world.pass_time(1.1)
    assert bad not in world.ready


def test_what_happened_long_ago_elsewhere_does_not_excuse_a_row() -> None:
    world = pool(3, **ROW)
    bad, *others = world.ready
    for other in others:
        world.call(other, "failed", 4)
        world.call(other, "answered", 10)
    world.pass_time(4)
    for other in others:
        world.call(other, "answered", 10)
    world.call(bad, "failed", 5)
    world.pass_time(1.1)
    assert bad not in world.ready


def test_a_row_of_deadlines_is_judged_when_the_next_rpcs_could_have_ended_it() -> None:
    world = pool(3, **ROW)
    stalled, hangs, other = world.ready
    world.call(other, "answered", 10)
    world.call(stalled, "late", 5)
    world.call(hangs, "late", 5)
    assert world.told(events.Ejected) == []
    world.call(stalled, "answered")
    world.call(other, "answered", 100)
    world.call(hangs, "late", 2)
    world.pass_time(1.1)
    (told,) = world.told(events.Ejected)
    assert (told.member, told.reason) == (hangs.id, "7 RPCs in a row failed")


def test_a_row_of_deadlines_that_something_else_ends_is_judged_then() -> None:
    world = pool(3, **ROW)
    bad, *others = world.ready
    for other in others:
        world.call(other, "answered", 10)
    world.call(bad, "late", 6)
    assert bad in world.ready
    world.call(bad, "failed")
    assert bad not in world.ready


@pytest.mark.parametrize(
    ("row", "share", "chance"), [(5, 0.0, False), (5, 0.05, False), (5, 0.07, True), (20, 0.5, False), (19, 0.5, True)]
)
def test_how_long_a_row_is_no_chance(row: int, share: float, chance: bool) -> None:
    assert is_chance(row, share) is chance
    assert (share**row > RARE) is chance


@pytest.mark.parametrize(
    ("failed", "answered", "share", "usual"),
    [
        (2, 3, 0.0, False),
        (190, 810, 0.1, True),
        (210, 790, 0.1, False),
        (5, 6, 0.2, True),
        (790, 210, 0.6, True),
        (810, 190, 0.6, False),
        (30, 0, 0.6, False),
        (1000, 0, 0.99, True),
        (2000, 0, 0.99, False),
        (1000, 0, 1.0, True),
    ],
)
def test_how_much_more_must_fail(failed: int, answered: int, share: float, usual: bool) -> None:
    assert is_usual(failed, answered, share) is usual
