"""A generation: one immutable snapshot of who can be picked, with the picker over it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import NoReturn, cast

from ..keys import Key, current_key
from ..strategies.base import Clock, Meter, Picker, Strategy
from .guard import SILENT, Guarded
from .member import Member

__all__ = ["Generation", "GenerationBuilder"]

Pick = Callable[[], Member]


class Generation:
    """What readers see: published whole, by one assignment, and not changed after that.

    Attributes:
        members: the connected members.
        eligible: those that `pick` chooses from.
        pick: chooses a member for an RPC: a connected one if there is any, else one that may become so, because
            grpc's own rules then hold for the RPC (it fails fast, or waits if it asked for `wait_for_ready`).
        pick_connected: chooses a connected member, or raises.
    """

    __slots__ = ("eligible", "members", "pick", "pick_connected")

    def __init__(
        self, members: tuple[Member, ...], pick: Pick, pick_connected: Pick, fallback: tuple[Member, ...] = ()
    ) -> None:
        self.members = members
        self.eligible = members or fallback
        self.pick = pick
        self.pick_connected = pick_connected

    def __repr__(self) -> str:
        return f"<Generation of {len(self.members)} members>"


class GenerationBuilder:
    """Makes generations with one strategy, and stands between the pool and that strategy's mistakes.

    Not thread-safe: the pool builds one generation at a time.

    Arguments:
        strategy: builds the pickers.
        rng, clock: handed to the strategy.
        not_connected: called where a connected member is wanted and there is none; raises.
        no_channel: called where any member is wanted and there is none; raises.
        on_error: told (as text) what a strategy did wrong.

    Attributes:
        keyed: the strategy routes by key.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        rng: random.Random,
        clock: Clock,
        not_connected: Callable[[], NoReturn],
        no_channel: Callable[[], NoReturn],
        on_error: Callable[[str], object],
    ) -> None:
        self._strategy = strategy
        self._rng = rng
        self._clock = clock
        self._not_connected = not_connected
        self._no_channel = no_channel
        self._on_error = on_error
        self._last_picker: Callable[[], object] | None = None
        self.keyed = bool(getattr(strategy, "keyed", False))
        self._measure: Callable[[Member], Meter] | None = getattr(strategy, "meter", None)
        # Our own strategies hold their contract, which is tested; a guard around them would double the price of a
        # pick. Somebody else's may be wrong, and must not take the pool down with it. The same goes for meters, which
        # the picks of some strategies of ours read.
        self._trusted = _is_ours(strategy)

    def build(
        self,
        ready: tuple[Member, ...],
        fallback: tuple[Member, ...],
        last_resort: Callable[[Pick], Pick] | None = None,
        probes: tuple[Member, ...] = (),
    ) -> Generation:
        """Return a generation that picks among `ready`, or among `fallback` while nothing is ready.

        Arguments:
            last_resort: what is to be made of the pick among `fallback`, if there is little hope for any of them.
            probes: who else is going to be picked.
        """
        for member in (*ready, *fallback, *probes):
            if member.observer is None and self._measure is not None:
                # Before anybody can pick it, so that every RPC's end is told to whom its beginning was.
                self._equip(member, self._measure)
        if ready:
            pick = self._picker(ready)
            return Generation(ready, pick, pick)
        # While nothing is connected there is nothing to choose by, so the fall-back is a plain rotation.
        rotation: Pick = itertools.cycle(fallback).__next__ if fallback else self._no_channel
        return Generation((), last_resort(rotation) if last_resort else rotation, self._not_connected, fallback)

    def _equip(self, member: Member, measure: Callable[[Member], Meter]) -> None:
        try:
            member.meter = measure(member)
        except Exception as error:
            self._on_error(f"meter() raised {type(error).__name__}")
            member.observer = SILENT
            self._trusted = False
        else:
            self._trusted = self._trusted and _is_ours(member.meter)
            member.observer = member.meter if self._trusted else Guarded(member.meter, self._on_error)

    def _picker(self, ready: tuple[Member, ...]) -> Pick:
        picker: Callable[[], object]
        try:
            picker = self._strategy.build(ready, rng=self._rng, clock=self._clock)
            if not callable(picker):
                raise TypeError(f"build() returned {picker!r}, which is not callable")
            if self.keyed:
                picker = _with_key(cast("Callable[[Key | None], object]", picker))
        except Exception as error:
            self._on_error(f"build() raised {type(error).__name__}")
            if self._last_picker is None:
                return itertools.cycle(ready).__next__
            return self._guarded(self._last_picker, ready)
        self._last_picker = picker
        return picker if self._trusted else self._guarded(picker, ready)  # type: ignore[return-value]

    def _guarded(self, picker: Callable[[], object] | Picker, ready: tuple[Member, ...]) -> Pick:
        allowed = frozenset(ready)
        instead = itertools.cycle(ready).__next__
        on_error = self._on_error
        # Said once for each picker: what is wrong with one pick is likely wrong with every other, and there are many.
        silent = False

        def pick() -> Member:
            nonlocal silent
            try:
                member = picker()
                if isinstance(member, Member) and member in allowed:
                    return member
                what = repr(member) if isinstance(member, Member) else f"an object of type {type(member).__name__}"
                problem = f"the picker returned {what}, which is not among the {len(allowed)} members given"
            except Exception as error:
                problem = f"the picker raised {type(error).__name__}"
            if not silent:
                silent = True
                on_error(problem)
            return instead()

        return pick


def _is_ours(thing: object) -> bool:
    return type(thing).__module__.startswith("grpcpool.strategies.")


def _with_key(picker: Callable[[Key | None], object]) -> Callable[[], object]:
    def pick() -> object:
        return picker(current_key())

    return pick
