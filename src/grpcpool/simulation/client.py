"""A client: a pool without a network."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import NoReturn

from ..core.generation import GenerationBuilder
from ..core.member import Member
from ..strategies.base import Clock, Strategy
from .scenario import Backends

__all__ = ["Client"]


class Client:
    """Plays one pool as the pool's engine does: members, leases, generations and the strategy are the real ones.

    Arguments:
        strategy: its own; no other client may have it.
        groups: what each backend is like, by number.
        rng, clock: handed to the strategy.
        on_error: told what the strategy does wrong.

    Attributes:
        keyed: the strategy goes by affinity keys.
        pick: chooses a member. Its `channel` is the number of its backend.
    """

    __slots__ = ("_builder", "_clock", "_groups", "_ids", "_members", "keyed", "pick")

    def __init__(
        self,
        strategy: Strategy,
        groups: Sequence[Backends],
        *,
        rng: random.Random,
        clock: Clock,
        on_error: Callable[[str], object],
    ) -> None:
        self._groups = groups
        self._clock = clock
        self._ids = count()
        self._members: dict[int, Member] = {}
        self._builder = GenerationBuilder(
            strategy, rng=rng, clock=clock, not_connected=_nobody, no_channel=_nobody, on_error=on_error
        )
        self.keyed = bool(getattr(strategy, "keyed", False))
        self.pick: Callable[[], Member] = _nobody

    def connect(self, backends: Sequence[int]) -> None:
        """Let exactly these backends be members. Who leaves ends its calls; who comes back is a new member."""
        members = self._members
        before = dict(members)
        members.clear()
        for number in backends:
            members[number] = before.pop(number) if number in before else self._member(number)
        self.pick = self._builder.build(tuple(sorted(members.values(), key=_by_id)), ()).pick
        # As in the pool: first the others are there, then it goes.
        for member in before.values():
            member.retire()

    def _member(self, number: int) -> Member:
        member = Member(next(self._ids), f"backend-{number}", weight=self._groups[number].weight, born=self._clock())
        member.channel = number
        return member


def _by_id(member: Member) -> int:
    return member.id


def _nobody() -> NoReturn:
    # A scenario has a member at any time.
    raise AssertionError("no member")
