"""Looks at the connectivity of every member, and passes on what is new."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ..strategies.base import Clock
from .connectivity import Connectivity
from .engine import Engine
from .member import Member
from .messages import Observed, Tick
from .turn import Turn

__all__ = ["Check", "Lookout"]

# Tells the state of one channel at this moment, without blocking, in grpc's own terms. True asks it to connect.
Check = Callable[[bool], Any]


# Between two requests to connect for a channel that stays idle, in seconds. It has been asked when it was made or when
# it fell idle, and takes a moment to begin.
NUDGE = 0.1


class _Watch:
    """One member under observation.

    Attributes:
        told: the state that the engine was told last, by a look or by a glance; None: none yet.
    """

    __slots__ = ("check", "member", "told")

    def __init__(self, member: Member, check: Check) -> None:
        self.member = member
        self.check = check
        self.told: Any = None

    def read(self) -> Any:
        """Return the state of the member's channel at this moment."""
        try:
            return self.check(False)
        except ValueError:
            # What grpc's sync channels answer once they are closed, where those of aio answer SHUTDOWN.
            return Connectivity.SHUTDOWN


class Lookout:
    """The eyes of a pool.

    Looking is cheaper than being told, in sync code and in aio: grpc's ways of telling cost a thread, or an operation
    under way in grpc's core that outlives the loop it was begun on. So each look asks every channel (less than 1 µs),
    and only what differs from the last look is made into a message.

    Several threads may look at once, but only one of them does: between reading a state and telling it a thread may be
    held up for as long as it takes another to tell a newer one, and the engine would be left with the older of the two.

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
        self._watches: dict[Member, _Watch] = {}
        # The watches and their checks, replaced whole.
        self._order: tuple[tuple[_Watch, ...], tuple[Check, ...]] = ((), ())
        # What the last look saw, and whom; no states if a glance has come in between and told something else.
        self._seen: tuple[_Watch, ...] = ()
        self._states: list[Any] | None = None
        self._nudged = clock()
        # Members to be glanced at, and the right to look.
        self._suspects: deque[Member] = deque()
        self._turn = Turn()

    def hold(self, token: object) -> bool:
        """Let nobody look until `release`; False if someone is at it. Never waits."""
        return self._turn.take(token)

    def release(self, token: object) -> None:
        """Let others look again, if they were kept from it with this token."""
        self._turn.give_back(token)

    def reset(self) -> None:
        """Look at nobody any more, and let go of whoever was looking."""
        self._watches = {}
        self._reorder()
        self._seen, self._states = (), None
        self._suspects = deque()
        self._turn = Turn()

    def __len__(self) -> int:
        return len(self._watches)

    def add(self, member: Member, check: Check) -> None:
        """Look at this member from now on."""
        self._watches[member] = _Watch(member, check)
        self._reorder()

    def remove(self, member: Member) -> None:
        """Look at this member no more; harmless if it is not looked at."""
        self._watches.pop(member, None)
        self._reorder()

    def _reorder(self) -> None:
        watches = tuple(self._watches.values())
        self._order = (watches, tuple(watch.check for watch in watches))

    def connect(self, member: Member) -> None:
        """Ask the member's channel to connect."""
        self._watches[member].check(True)

    def is_connected(self, member: Member) -> bool:
        """Say whether the member's channel is READY at this moment."""
        watch = self._watches.get(member)
        state = None if watch is None else watch.read()
        return state is not None and state is not Connectivity.SHUTDOWN and self._translate(state) is Connectivity.READY

    def in_use(self) -> bool:
        """Say whether any RPC is in flight."""
        watches, _ = self._order
        return any(watch.member.leases for watch in watches)

    def look(self) -> tuple[bool, float | None]:
        """Look at every member and at the clock, and leave messages for what is new.

        Returns:
            Whether there was news, or may soon be, and the seconds to the engine's next appointment, or None.
        """
        news = self._see(True)
        now = self._clock()
        due = self._engine.machine.wake_at
        if due is not None and now >= due:
            self._engine.post(Tick())
        return news, None if due is None else due - now

    def glance(self, member: Member) -> bool:
        """Look at this member only; True if there was news.

        If another thread is just looking this returns False at once, and that thread looks at this member as well.
        """
        self._suspects.append(member)
        return self._see(False)

    def _see(self, everyone: bool) -> bool:
        """Look at the suspects, and at everyone if so asked; True if that was news, or if nobody had the time."""
        news = False
        # The outer loop as in `Turn.work`: a suspect may come in just before the turn is given back.
        while everyone or self._suspects:
            token = object()
            try:
                if not self._turn.take(token):
                    # A glance is under way, so this look is to be made up for soon.
                    return news or everyone
                if everyone:
                    everyone = False
                    news = self._see_all()
                while self._suspects:
                    news = self._see_one(self._suspects.popleft()) or news
            finally:
                # Twice, as in `Turn.work`.
                try:
                    self._turn.give_back(token)
                finally:
                    self._turn.give_back(token)
        return news

    def _see_all(self) -> bool:
        watches, checks = self._order
        # Nearly always nothing has changed, so that is found out with as little Python as can be.
        try:
            states = [check(False) for check in checks]
        except ValueError:
            # One is closed: by the pool, a moment ago, or by somebody from outside.
            states = [watch.read() for watch in watches]
        now = self._clock()
        # A channel that fell idle twice between two looks seems not to have changed; it still wants a nudge, in time.
        nudge = now - self._nudged >= NUDGE and self._idle in states
        if nudge:
            self._nudged = now
        if not nudge and watches is self._seen and states == self._states:
            return False
        self._seen, self._states = watches, states
        news = False
        for watch, state in zip(watches, states, strict=True):
            changed = state != watch.told
            if (changed or (nudge and state == self._idle)) and not watch.member.retired:
                self._tell(watch, state)
                news = news or changed
        return news

    def _see_one(self, member: Member) -> bool:
        watch = self._watches.get(member)
        if watch is None or member.retired:
            return False
        state = watch.read()
        if state == watch.told:
            return False
        self._states = None
        self._tell(watch, state)
        return True

    def _tell(self, watch: _Watch, state: Any) -> None:
        watch.told = state
        connectivity = state if state is Connectivity.SHUTDOWN else self._translate(state)
        self._engine.post(Observed(watch.member, connectivity))
