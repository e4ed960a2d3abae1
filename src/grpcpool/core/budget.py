"""How many RPCs a pool may send once more than it was asked to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..strategies.base import Clock
from .counters import Tally
from .turn import Turn

__all__ = ["Budget"]

# A fifth of all RPCs, and a few for pools that have little to do: so that a backend that fails for all gets 1.2 times
# the load at the most, and not a multiple of it just when it can bear that least. (The shape is that of Finagle's
# retry budget.)
SHARE = 0.2
PER_SECOND = 10.0
# So much is always on hand at first, and as much again as RPCs are in flight: those are what a backend that dies can
# take down at one blow. More is not saved up, however well all went before.
AT_HAND = 10.0
# Between two looks at the counters of all members, in seconds.
SETTLE_EVERY = 0.02


class Budget:
    """Lets RPCs be sent again, for as long as that is a small part of all RPCs. One for the whole pool.

    Safe from any thread, without a lock.

    Arguments:
        load: returns how many RPCs have begun so far, those sent again included, and how many are in flight.
        clock: the pool's clock.

    Attributes:
        granted: how often it said yes.
        refused: how often it said no.
    """

    __slots__ = ("_clock", "_credit", "_load", "_most", "_settled", "_tokens", "_turn", "granted", "refused")

    def __init__(self, load: Callable[[], tuple[int, int]], clock: Clock) -> None:
        self._load = load
        self._clock = clock
        self.granted = Tally()
        self.refused = Tally()
        # As many as may be taken: a count that threads can change without losing anything.
        self._tokens: deque[None] = deque([None] * int(AT_HAND))
        # The part of one that is not a whole one yet.
        self._credit = 0.0
        self._most = AT_HAND
        # When it was last settled, for how many RPCs.
        self._settled = (clock(), 0)
        self._turn = Turn()

    def take(self) -> bool:
        """Ask whether one RPC more may be sent; if so, it counts."""
        self._turn.work(self._due, self._settle)
        try:
            self._tokens.pop()
        except IndexError:
            self.refused.add()
            return False
        self.granted.add()
        return True

    def _due(self) -> bool:
        return self._clock() - self._settled[0] >= SETTLE_EVERY

    def _settle(self) -> None:
        now = self._clock()
        begun, in_flight = self._load()
        asked = begun - self.granted.value()
        since, before = self._settled
        passed = max(now - since, 0.0)
        self._settled = now, asked
        # What was in flight a moment ago has just been taken down, perhaps: so the limit goes down slowly, within about
        # a second.
        self._most = max(AT_HAND + in_flight, self._most - passed * self._most)
        earned = self._credit + SHARE * max(asked - before, 0) + PER_SECOND * passed
        self._credit = earned % 1
        room = int(self._most) - len(self._tokens)
        self._tokens.extend([None] * min(int(earned), max(room, 0)))
