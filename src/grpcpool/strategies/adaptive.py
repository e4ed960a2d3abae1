"""The member that promises the quickest answer."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

from .base import Clock, Member, Meter, Picker
from .load import FAILURE, LEAST, PROBE, Gauge

__all__ = ["Adaptive", "Strain"]

# How much of the average a new sample leaves, if it comes right after the last. In simulations of noisy servers (their
# service times exponentially distributed), keeping 70 to 90 % did about equally well; much less, and a call that is
# slow by chance drives everybody off; more, and a server that has become slow is noticed too late.
KEEP = 0.8
# Up to so many members the costs of all are compared. The comparison itself is C code, 10 ns for each member.
COMPARED = 64

NEVER = math.inf


class Adaptive:
    """Gives each RPC to the member that promises the quickest answer, going by how it answers now.

    The cost of a member is ``max(average latency, stall) * (in flight + 1)``; see `Strain`. The *stall* is what sets it
    apart: how long calls have been waiting there without a single answer. It grows while nothing happens, so a member
    that hangs is avoided after about the time that a call usually takes, and not after its calls have timed out.
    Members that fail, fast or slowly, are avoided too; what is avoided is tried again after a while.

    Up to 64 members, all are compared; among more, three drawn at random.

    Arguments:
        load: what to compare the members by; default ``Strain()``.
    """

    def __init__(self, load: Strain | None = None) -> None:
        self._load = load or Strain()

    def meter(self, member: Member) -> Meter:
        """Put a gauge on the member."""
        return self._load.gauge(member)

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> Picker:
        """Return a picker of the least cost; members with equal costs take turns."""
        gauges: list[_StrainGauge] = [member.meter for member in members]
        # In an order of its own, or all clients that start together would probe the same member first.
        rng.shuffle(gauges)
        now = clock()
        board = [gauge.cost(now) for gauge in gauges]
        for place, gauge in enumerate(gauges):
            gauge.hang(board, place)
        if len(gauges) <= COMPARED:
            return _least_of_all(gauges, board, clock)
        return _least_of_three(gauges, rng, clock)


def _least_of_all(gauges: list[_StrainGauge], board: list[float], clock: Clock) -> Picker:
    # The board has the cost of every member as of the last time that something happened there, or that somebody looked.
    # Since then time has passed: averages have decayed (the cost is lower than written) and stalls have grown (it is
    # higher). So each pick corrects one member in turn, for what is lower than written; and the least one before it is
    # taken, for what is higher. Whatever is written while others do the same is corrected in the same way.
    turn = itertools.cycle(range(len(gauges))).__next__

    def pick() -> Member:
        now = clock()
        place = turn()
        # Preferred to others of equal cost, so that equals take turns.
        best = gauges[place]
        board[place] = cost = best.cost(now)
        # Mostly one step. More than there are members are taken only if other threads write all the while.
        for _ in gauges:
            least = min(board)
            if least >= cost:
                break
            try:
                place = board.index(least)
            except ValueError:
                # Another thread has just written something else there.
                continue
            gauge = gauges[place]
            board[place] = now_cost = gauge.cost(now)
            if now_cost < cost:
                best, cost = gauge, now_cost
        return best.member

    return pick


def _least_of_three(gauges: list[_StrainGauge], rng: random.Random, clock: Clock) -> Picker:
    # One out of each third, and so three distinct ones; which third a member is in was drawn as well.
    third = len(gauges) // 3
    thirds = gauges[:third], gauges[third : 2 * third], gauges[2 * third :]
    (first, second, last), rest = thirds, len(gauges) - 2 * third
    chance = rng.random

    def pick() -> Member:
        now = clock()
        one = first[int(chance() * third)]
        other = second[int(chance() * third)]
        another = last[int(chance() * rest)]
        cost = one.cost(now)
        least = other.cost(now)
        if least < cost:
            one, cost = other, least
        return another.member if another.cost(now) < cost else one.member

    return pick


class Strain:
    """A load metric: ``max(average * exp(-age / tau), stall) * (in flight + 1)``.

    The average is over latencies; a sample weighs ``1 - 0.8 * exp(-dt / tau)``, where dt is the time since the last
    one: a fifth of the whole if calls follow each other closely, all of it after a long silence. It decays with its age
    when it is read, so that a member that is avoided is tried again. A failure counts as a latency of one second at
    least, and replaces the average at once.

    The stall is the time since the last answer, or, if nothing was in flight then, since the first call after it; 0
    while nothing is in flight. Streams are in flight like all calls, but are not waited for: they cause no stall.

    Of a member that nobody has tried yet, nothing is known: it gets one call, and no other until that has ended.

    Arguments:
        tau: seconds in which a lesson is forgotten to 37 %. A member that was a hundred times slower than the others
            is tried again after 4.6 times that.
    """

    def __init__(self, tau: float = 3.0) -> None:
        if not 0 < tau < math.inf:
            raise ValueError(f"tau must be a time in seconds above 0, not {tau!r}")
        self._rate = 1 / tau

    def gauge(self, member: Member) -> _StrainGauge:
        """Return a new gauge for the member."""
        return _StrainGauge(member, self._rate)


class _StrainGauge:
    """One member's strain.

    Whatever happens, its cost is written on a board at once, where a picker compares it with others'.
    """

    __slots__ = ("_average", "_board", "_leases", "_place", "_rate", "_since", "_stamp", "_streams", "member")

    def __init__(self, member: Member, rate: float) -> None:
        self.member = member
        self._leases = member.leases
        self._rate = rate
        # 0: unknown.
        self._average = 0.0
        self._stamp = 0.0
        self._since = NEVER
        # As many as there are streams in flight: a count that threads can change without losing anything.
        self._streams: list[None] = []
        self._board = [0.0]
        self._place = 0

    def hang(self, board: list[float], place: int) -> None:
        """Write the costs there from now on."""
        self._board, self._place = board, place

    def cost(self, now: float) -> float:
        """Return what one more RPC would cost now."""
        cost = self._average * math.exp((self._stamp - now) * self._rate)
        stall = now - self._since
        if stall > cost:
            cost = stall
        elif cost < LEAST:
            cost = LEAST
        return cost * (len(self._leases) + 1)

    def started(self, now: float, timed: bool) -> None:
        """Begin to wait, unless others wait already."""
        if not timed:
            self._streams.append(None)
        elif self._since == NEVER:
            # As if the probe had been out for long: nobody follows it.
            self._since = now if self._average else now - PROBE
        self._board[self._place] = self.cost(now)

    def answered(self, now: float, latency: float | None) -> None:
        """Average the latency in."""
        if latency is None:
            self._streams.pop()
            self._board[self._place] = self.cost(now)
            return
        average = self._average
        if average:
            latency += (average - latency) * KEEP * math.exp((self._stamp - now) * self._rate)
        self._now_at(now, latency)

    def failed(self, now: float, latency: float | None) -> None:
        """Remember the failure."""
        if latency is None:
            self._streams.pop()
            latency = 0.0
        left = self._average * math.exp((self._stamp - now) * self._rate)
        self._now_at(now, max(left, latency, FAILURE))

    def dropped(self, now: float, latency: float | None) -> None:
        """Average the time in that the caller has waited in vain, if it was longer than usual."""
        if latency is None or latency > self._average > 0:
            self.answered(now, latency)
            return
        self._since = now if len(self._leases) > len(self._streams) else NEVER
        self._board[self._place] = self.cost(now)

    def _now_at(self, now: float, average: float) -> None:
        self._average = average = max(LEAST, average)
        self._stamp = now
        running = len(self._leases)
        self._since = now if running > len(self._streams) else NEVER
        self._board[self._place] = average * (running + 1)


# A gauge like any other: `PowerOfTwo(Strain())` works as well.
_: type[Gauge] = _StrainGauge
