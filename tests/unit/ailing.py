"""What the tests of health share: pools in which some do badly, and others well."""

from __future__ import annotations

from typing import Any

from grpcpool.core import snapshot
from grpcpool.core.member import Member
from grpcpool.core.slot import Ejection

from .world import World, connected

# Each layer is tested by itself.
ROW = {"max_consecutive_failures": 5}
RATE = {"min_success_rate": 0.8}
QUIET = {"unresponsive_after": 1.0}


def pool(size: int = 3, *targets: str, **policy: Any) -> World:
    world = connected(*(targets or ("a",)), size=size, **policy)
    world.pass_time(2)
    return world


def eject(world: World, member: Member) -> None:
    """Let five RPCs in a row fail there, and as many be answered by all others."""
    keep_others_busy(world, member)
    world.call(member, "failed", 5)
    assert member not in world.ready, world.events[-3:]


def keep_others_busy(world: World, member: Member) -> None:
    for other in world.ready:
        if other is not member:
            world.call(other, "answered", 10)


def ejection(world: World, member: Member) -> Ejection:
    found = world.machine.slots[member].ejection
    assert found is not None
    return found


def answer_pings(world: World, seconds: float, error: str | None = None, duration: float = 0.01) -> None:
    """Let so much time pass; pings end like that, at once."""
    end = world.clock.now + seconds
    while world.clock.now < end:
        for member in list(world.pings):
            world.pong(member, error, duration)
        world.pass_time(min(0.25, end - world.clock.now))


def half_open(world: World, member: Member) -> None:
    """Let its time pass, so that it is to be tried."""
    left = ejection(world, member).until - world.clock.now
    answer_pings(world, left + 0.01)
    assert world.probes == (member,)


def stats(world: World) -> Any:
    return snapshot.stats(world.machine, world.line, world.clock(), listener_errors=0, maintenance_errors=0)


def be_silent(world: World, member: Member, seconds: float) -> None:
    """Let time pass while all others answer."""
    assert len(world.ready) > 1
    end = world.clock.now + seconds
    while world.clock.now < end:
        for other in world.ready:
            if other is not member:
                world.call(other)
        world.pass_time(0.25)
