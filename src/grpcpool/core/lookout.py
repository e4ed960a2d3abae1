"""Looks at the connectivity of every member, and passes on what is new."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..strategies.base import Clock
from .connectivity import Connectivity
from .engine import Engine
from .member import Member
from .messages import Observed, Tick

__all__ = ["Check", "Lookout"]

# Tells the state of one channel at this moment, without blocking, in grpc's own terms. True asks it to connect.
Check = Callable[[bool], Any]


# Between two requests to connect for a channel that stays idle, in seconds. It has been asked when it was made or when
# it fell idle, and takes a moment to begin.
NUDGE = 0.1


class Lookout:
    """The eyes of a pool.

    Looking is cheaper than being told, in sync code and in aio: grpc's ways of telling cost a thread, or an operation
    under way in grpc's core that outlives the loop it was begun on. So each look asks every channel (less than 1 µs),
    and only what differs from the last look is made into a message.

    Arguments:
        engine: is told, and its appointments are kept.
        idle: the state in which a channel waits to be asked to connect, in grpc's terms.
        translate: makes grpc's terms ours.
    """

    def __init__(self, engine: Engine, clock: Clock, *, idle: Any, translate: Callable[[Any], Connectivity]) -> None:
        self._engine = engine
        self._clock = clock
        self._idle = idle
        self._translate = translate
        self._checks: dict[Member, Check] = {}
        # Members and their checks, replaced whole; and what the last look saw of them, in the same order.
        self._order: tuple[tuple[Member, ...], tuple[Check, ...]] = ((), ())
        self._states: list[Any] = []
        # What the engine was told last about each member, by a look or by a glance.
        self._told: dict[Member, Any] = {}
        # Set by whatever happens between two looks and makes the comparison of the two say nothing.
        self._dirty = False
        self._nudged = clock()

    def __len__(self) -> int:
        return len(self._checks)

    def add(self, member: Member, check: Check) -> None:
        """Look at this member from now on."""
        self._checks[member] = check
        self._reorder()

    def remove(self, member: Member) -> None:
        """Look at this member no more; harmless if it is not looked at."""
        self._checks.pop(member, None)
        self._told.pop(member, None)
        self._reorder()

    def _reorder(self) -> None:
        checks = dict(self._checks)
        self._order = (tuple(checks), tuple(checks.values()))
        self._dirty = True

    def connect(self, member: Member) -> None:
        """Ask the member's channel to connect."""
        self._checks[member](True)

    def look(self) -> tuple[bool, float | None]:
        """Look at every member and at the clock, and leave messages for what is new.

        Returns:
            Whether there was news, and the seconds to the engine's next appointment, or None.
        """
        # Before anything is read: what happens from here on is for the next look.
        dirty, self._dirty = self._dirty, False
        members, checks = self._order
        # Nearly always nothing has changed, so that is found out with as little Python as can be.
        states = [check(False) for check in checks]
        now = self._clock()
        # A channel that fell idle twice between two looks seems not to have changed; it still wants a nudge, in time.
        nudge = now - self._nudged >= NUDGE and self._idle in states
        if nudge:
            self._nudged = now
        news = False
        if nudge or dirty or states != self._states:
            self._states = states
            news = self._note(members, states, nudge)
        due = self._engine.machine.wake_at
        if due is not None and now >= due:
            self._engine.post(Tick())
        return news, None if due is None else due - now

    def _note(self, members: tuple[Member, ...], states: list[Any], nudge: bool) -> bool:
        news = False
        for member, state in zip(members, states, strict=True):
            changed = state != self._told.get(member)
            if (changed or (nudge and state == self._idle)) and not member.retired:
                self._told[member] = state
                self._engine.post(Observed(member, self._translate(state)))
                news = news or changed
        return news

    def glance(self, member: Member) -> bool:
        """Look at this member only; True if that was news."""
        check = self._checks.get(member)
        if check is None or member.retired:
            return False
        state = check(False)
        if state == self._told.get(member):
            return False
        self._told[member] = state
        self._dirty = True
        self._engine.post(Observed(member, self._translate(state)))
        return True
