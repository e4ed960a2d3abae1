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
        self._seen: dict[Member, Any] = {}

    def add(self, member: Member, check: Check) -> None:
        """Look at this member from now on."""
        self._checks[member] = check

    def remove(self, member: Member) -> None:
        """Look at this member no more; harmless if it is not looked at."""
        self._checks.pop(member, None)
        self._seen.pop(member, None)

    def connect(self, member: Member) -> None:
        """Ask the member's channel to connect."""
        self._checks[member](True)

    def look(self) -> tuple[bool, float | None]:
        """Look at every member and at the clock, and leave messages for what is new.

        Returns:
            Whether there was news, and the seconds to the engine's next appointment, or None.
        """
        engine = self._engine
        news = False
        # A copy, for members come and go in other threads.
        for member, check in list(self._checks.items()):
            if member.retired:
                continue
            state = check(False)
            changed = state != self._seen.get(member)
            # A channel that fell idle twice between two looks seems not to have changed; it still wants a nudge.
            if changed or state == self._idle:
                self._seen[member] = state
                engine.post(Observed(member, self._translate(state)))
                news = news or changed
        now = self._clock()
        due = engine.machine.wake_at
        if due is not None and now >= due:
            engine.post(Tick())
        return news, None if due is None else due - now

    def glance(self, member: Member) -> bool:
        """Look at this member only; True if that was news."""
        check = self._checks.get(member)
        if check is None or member.retired:
            return False
        state = check(False)
        if state == self._seen.get(member):
            return False
        self._seen[member] = state
        self._engine.post(Observed(member, self._translate(state)))
        return True
