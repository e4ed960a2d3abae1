"""Picks while some members are not to have their full share: those that come back, and those that are on probation."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from ..strategies.base import Clock
from .member import Member

__all__ = ["gradually", "once_each", "share"]

Pick = Callable[[], Member]

# What a member gets of its share at the very beginning. With nothing at all it would learn nothing.
LEAST = 0.1


def share(since: float, now: float, seconds: float) -> float:
    """Return what part of its full share a member gets that came back at `since`: from a tenth, evenly, to all."""
    return min(max((now - since) / seconds, LEAST), 1.0)


def gradually(
    pick: Pick,
    members: Sequence[Member],
    since: Mapping[Member, float],
    seconds: float,
    *,
    rng: random.Random,
    clock: Clock,
) -> Pick:
    """Return a pick that gives members a growing share after they came back.

    Arguments:
        pick: chooses among `members`.
        since: who came back, and when.
        seconds: after so long they have their full share.
    """
    steady = [member for member in members if member not in since]
    if not steady:
        # Somebody must do the work.
        return pick
    others = itertools.cycle(steady).__next__

    def pick_gradually() -> Member:
        member = pick()
        came = since.get(member)
        if came is None or rng.random() < share(came, clock(), seconds):
            return member
        # A strategy that looks for who has least to do would choose the same one again, so the second choice is final.
        member = pick()
        return member if member not in since else others()

    return pick_gradually


def once_each(pick: Pick, members: Sequence[Member], given: Callable[[Member], object]) -> Pick:
    """Return a pick that first gives out each of `members` once.

    Arguments:
        pick: chooses for all other RPCs.
        given: told whom it has given out, at once.
    """
    waiting = deque(members)

    def pick_once() -> Member:
        try:
            # One step: of two RPCs at the same instant one gets it.
            member = waiting.popleft()
        except IndexError:
            return pick()
        given(member)
        return member

    return pick_once
