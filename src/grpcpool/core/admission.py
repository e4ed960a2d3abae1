"""Where RPCs wait while every member is full: a line, first come, first served."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

from ..strategies.base import Clock
from .counters import Tally
from .lease import Lease
from .member import UNLIMITED, Member
from .turn import Turn

__all__ = ["Admission", "LineStats", "Waiter"]


class LineStats(NamedTuple):
    """The numbers of a line; see `PoolStats`."""

    waiting: int = 0
    waited: int = 0
    seconds: float = 0.0
    refused: int = 0
    resent: int = 0


_LEFT = object()
_DISMISSED = object()


class Waiter:
    """One RPC in line.

    Its fate is settled once: it is given its lease, or it leaves, or it is dismissed. Whoever settles it may be struck
    by Ctrl-C at any step; then it is done again, from the beginning.

    Arguments:
        lease: to be taken for it.
        wake: called when its fate is settled by others, from any thread, in the middle of anything; perhaps twice.

    Attributes:
        since: when it came, on the pool's clock.
        done: others have settled its fate, and all that goes with that.
    """

    __slots__ = ("_fate", "_tried", "_wake", "done", "lease", "since")

    def __init__(self, lease: Lease, wake: Callable[[], object]) -> None:
        self.lease = lease
        self.since = 0.0
        self.done = False
        self._wake = wake
        # The member that its lease is on, or one of the other ends.
        self._fate: dict[str, object] = {}
        self._tried: Member | None = None

    def leave(self) -> bool:
        """Settle its fate for itself; False if others have, or are just doing it."""
        return self._fate.setdefault("", _LEFT) is _LEFT

    def give(self, member: Member, cap: int, now: float) -> bool:
        """Take its lease on the member and wake it, unless it has left; False if the member has no room for it."""
        lease = self.lease
        if not self._fate:
            self._retract()
            self._tried = member
            if not member.admit(lease, cap):
                return False
        fate = self._fate.setdefault("", member)
        if self._tried is None or fate is not self._tried:
            self._retract()
            return True
        if not self.done:
            lease.begin(self._tried, now)
            self.done = True
        self._wake()
        return True

    def dismiss(self) -> None:
        """Wake it without a lease, unless it has left."""
        if self._fate.setdefault("", _DISMISSED) is _DISMISSED:
            self._retract()
            self.done = True
            self._wake()

    def _retract(self) -> None:
        # It is not in, unless Ctrl-C has struck when it was, or it has left at that very moment.
        if self._tried is not None and self.lease in self._tried.leases:
            self._tried.withdraw(self.lease)


class Admission:
    """The line in front of the members of one pool.

    While nobody waits it costs an RPC one comparison: of a member's RPCs in flight with its `limit`. As soon as one
    waits, all limits are 0. So whoever comes later gets into line behind it, and whoever ends an RPC says so here.

    All that changes here is changed by one thread at a time, whichever has the turn, one piece of news after the other:
    nobody waits for a lock, and a garbage collection that ends an RPC in the middle of this leaves its news and goes.

    Arguments:
        cap: RPCs that may be in flight at once on one member.
        most: RPCs that may wait.
        here: whether this may be worked on in this thread; else it waits for the next `serve`.
        call: sees to it that `serve` is called soon, elsewhere.
        on_line: told when a line forms.

    Attributes:
        shut: others wait, so that an RPC that comes now need not try.
        waited: RPCs that had to wait.
        refused: RPCs that were not let into line, or left it because they had waited too long.
        resent: how often RPCs were sent again that a server had refused to look at.
        seconds: how long those waited, in sum, that wait no longer.
    """

    def __init__(
        self,
        cap: int,
        most: int,
        *,
        clock: Clock,
        here: Callable[[], bool],
        call: Callable[[], object],
        on_line: Callable[[], object],
    ) -> None:
        self.cap = cap
        self.most = most
        self.waited = Tally()
        self.refused = Tally()
        self.resent = Tally()
        self.seconds = 0.0
        self.shut = False
        self._clock = clock
        self._here = here
        self._call = call
        self._on_line = on_line
        self._line: OrderedDict[Waiter, None] = OrderedDict()
        # What is to be done, and with whom.
        self._news: deque[tuple[Callable[[tuple[Member, ...]], object], tuple[Member, ...]]] = deque()
        self._turn = Turn()
        self._members: tuple[Member, ...] = ()
        self._known: frozenset[Member] = frozenset()
        # Who was shut with the others and has left, perhaps only for a while.
        self._away: set[Member] = set()
        self._closed = False
        # While it is shut: no member has room, but for what is in the news.
        self._looked = False

    def stats(self) -> LineStats:
        """Return its numbers. Safe from anywhere."""
        return LineStats(self.waiting, self.waited.value(), self.seconds, self.refused.value(), self.resent.value())

    @property
    def capped(self) -> bool:
        """There is a limit at all."""
        return self.cap < UNLIMITED

    @property
    def waiting(self) -> int:
        """RPCs that wait now."""
        return len(self._line)

    # --- what others say; safe from anywhere

    def enter(self, waiter: Waiter) -> bool:
        """Put an RPC into line; False if as many wait as may."""
        if len(self._line) >= self.most:
            self.refused.add()
            return False
        waiter.since = self._clock()
        self.waited.add()
        self._line[waiter] = None
        # Else there is a line already, and whoever makes room says so.
        if not self.shut:
            self._say(self._nothing)
        return True

    def leave(self, waiter: Waiter) -> bool:
        """Take an RPC out of line; False if others settle its fate, or have.

        If they have not yet (it is not `done`), they will call its `wake`.
        """
        if not waiter.leave():
            return False
        # Its place in line goes when its turn comes, or now.
        self._say(lambda _: self._strike(waiter, self._clock()))
        return True

    def room(self, member: Member) -> None:
        """Note that an RPC has ended on the member, or has only tried to begin there."""
        # If others fill it at this moment, they say so in their turn when they leave.
        if len(member.leases) < self.cap:
            self._say(self._fill, (member,))

    def adopt(self, members: tuple[Member, ...]) -> None:
        """Note that these are the members now. They are said here before anybody else can pick them."""
        self._say(self._adopt, members)

    def lend(self, members: tuple[Member, ...]) -> None:
        """Note that each of these is to be given an RPC, though they are not among the members now."""
        self._say(self._lend, members)

    def retire(self, member: Member) -> None:
        """Retire the member; its `on_idle` is told when no RPC is left there, at once if none is."""
        # Here, because a member's limit is set by one thread at a time.
        self._say(self._retire, (member,))

    def close(self) -> None:
        """Wake all who wait, without a lease."""
        self._say(self._dismiss)

    def serve(self) -> None:
        """Work off what has been said, unless another thread is at it."""
        try:
            self._turn.work(self._news.__len__, self._step)
        except BaseException:
            # Ctrl-C has struck in this thread, of all threads; somebody has to go on.
            self._call()
            raise

    # --- what comes of it; for whoever has the turn

    def _say(self, what: Callable[[tuple[Member, ...]], object], members: tuple[Member, ...] = ()) -> None:
        try:
            self._news.append((what, members))
            if self._here():
                self.serve()
            else:
                self._call()
        except BaseException:
            # As in `serve`.
            self._call()
            raise

    def _step(self) -> None:
        # Taken off the list when it is done: all of it can be done twice, if an interrupt strikes in between.
        what, members = self._news[0]
        what(members)
        while self._line and not self._looked:
            self._look()
        self._news.popleft()

    def _nothing(self, _: tuple[Member, ...]) -> None:
        """Somebody came; what that means is seen at the end of every step."""

    def _look(self) -> None:
        """Shut the members, and see who has room all the same."""
        if self._closed:
            self._dismiss(())
            return
        for member in self._members:
            member.allow(0)
        self.shut = True
        # Room that was made before that was not said here.
        self._fill(self._members)
        # If all were served, others may have come meanwhile, who found it shut and have said nothing. Then look again.
        self._looked = self.shut
        if self._looked:
            self._on_line()

    def _lift(self) -> None:
        self._looked = False
        for member in (*self._away, *self._members):
            member.allow(self.cap)
        self._away = set()
        self.shut = False

    def _adopt(self, members: tuple[Member, ...]) -> None:
        if self.shut:
            self._away = {member for member in (*self._away, *self._members) if not member.retired}
        self._members = members
        self._known = frozenset(members)
        for member in members:
            member.allow(0 if self.shut else self.cap)
        self._fill(members)

    def _lend(self, members: tuple[Member, ...]) -> None:
        # It may have left while others waited in line, with no room.
        for member in members:
            member.allow(self.cap)

    def _retire(self, members: tuple[Member, ...]) -> None:
        for member in members:
            if member.retire():
                member.on_idle(member)

    def _fill(self, members: tuple[Member, ...]) -> None:
        for member in members:
            while self._line and member in self._known:
                waiter = self._oldest()
                now = self._clock()
                if not waiter.give(member, self.cap, now):
                    break
                self._strike(waiter, now)

    def _oldest(self) -> Waiter:
        while True:
            # Not taken out yet: an interrupt may strike before its fate is settled.
            try:
                return next(iter(self._line))
            except RuntimeError:
                # Another one has come at this very moment.
                continue

    def _strike(self, waiter: Waiter, now: float) -> None:
        if waiter not in self._line:
            return
        # Before the last one goes: whoever comes when it is gone must say so, and whoever came before is found in line.
        if self.shut and len(self._line) == 1:
            self._lift()
        del self._line[waiter]
        self.seconds += now - waiter.since

    def _dismiss(self, _: tuple[Member, ...]) -> None:
        self._closed = True
        # While others come, they are dismissed as well.
        while self._line:
            waiter = self._oldest()
            waiter.dismiss()
            self._strike(waiter, self._clock())
