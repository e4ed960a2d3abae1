"""The member that promises the quickest answer."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

from .base import Clock, Member, Meter, Picker
from .load import FAILURE, LEAST, PROBE, Gauge, rate_of

__all__ = ["Adaptive", "Strain"]

# How much of the average a new sample leaves, if it comes right after the last. In simulations of noisy servers (their
# service times exponentially distributed), keeping 70 to 90 % did about equally well; much less, and a call that is
# slow by chance drives everybody off; more, and a server that has become slow is noticed too late.
KEEP = 0.8
# Up to so many members the costs of all are compared. The comparison itself is C code, 10 ns for each member.
COMPARED = 64
# A member that turns out to cost up to this much more than was written down is taken all the same.
TOLERANCE = 1.1
# A board's scale is good for so many time constants. Costs grow by e for each; a float bears 700 of them.
SCALE = 300.0

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
        board = Board(gauges, self._load.rate, clock())
        return (_least_of_all if len(gauges) <= COMPARED else _least_of_three)(gauges, board, rng, clock)


class Board:
    """What each member costs, as of the last time that something happened there.

    Costs change with time as well. Averages decay: but all by the same factor, so if that is left out, their order is
    right for ever. What is written is ``average * exp((stamp - epoch) / tau) * (in flight + 1)``, and a cost of now has
    to be multiplied by ``exp((now - epoch) / tau)`` to be compared. Stalls grow: so what is written may be too low, and
    whoever finds the least corrects it before he believes it.

    Written by any thread, without a lock. An epoch is good for 300 time constants, and then replaced.

    Attributes:
        costs: one for each gauge, in their order.
        epoch: the time from which decay is counted.
    """

    __slots__ = ("_gauges", "costs", "epoch", "rate")

    def __init__(self, gauges: list[_StrainGauge], rate: float, now: float) -> None:
        self._gauges = gauges
        self.rate = rate
        self.costs = [0.0] * len(gauges)
        self.renew(now)

    def renew(self, now: float) -> None:
        """Begin a new epoch."""
        # In this order, so that who has written by the old one notices; see `_StrainGauge.write`.
        self.epoch = now
        for place, gauge in enumerate(self._gauges):
            gauge.hang(self, place)

    def scale(self, now: float) -> float:
        """Return by what a cost of now is to be multiplied."""
        age = (now - self.epoch) * self.rate
        if age > SCALE:
            self.renew(now)
            return 1.0
        return math.exp(age)


def _least_of_all(gauges: list[_StrainGauge], board: Board, rng: random.Random, clock: Clock) -> Picker:
    costs = board.costs
    rate = board.rate
    exp = math.exp
    turn = itertools.cycle(range(len(gauges))).__next__

    def pick() -> Member:
        place = turn()
        # Mostly one step or two. There are more than members only if other threads write all the while.
        for _ in gauges:
            least = min(costs)
            # Equals take turns.
            if costs[place] > least:
                try:
                    place = costs.index(least)
                except ValueError:
                    # Another thread has just written something else there.
                    continue
            gauge = gauges[place]
            running = len(gauge.leases)
            if not running:
                break
            # `waited` and `scale`, written out.
            now = clock()
            stall = now - gauge.since
            age = (now - board.epoch) * rate
            if age > SCALE:
                board.renew(now)
                continue
            cost = (stall if stall > LEAST else LEAST) * exp(age) * (running + 1)
            if cost <= least * TOLERANCE:
                break
            costs[place] = cost
        return gauges[place].member

    return pick


def _least_of_three(gauges: list[_StrainGauge], board: Board, rng: random.Random, clock: Clock) -> Picker:
    # One out of each third, and so three distinct ones; which third a member is in was drawn as well.
    third = len(gauges) // 3
    rest = len(gauges) - 2 * third
    costs = board.costs
    scale = board.scale
    chance = rng.random

    def pick() -> Member:
        now = clock()
        factor = scale(now)
        best = gauges[0]
        least = NEVER
        for place in (int(chance() * third), third + int(chance() * third), 2 * third + int(chance() * rest)):
            gauge = gauges[place]
            cost = costs[place]
            running = len(gauge.leases)
            if running:
                # `waited`, written out.
                stall = now - gauge.since
                wait = (stall if stall > LEAST else LEAST) * factor * (running + 1)
                if wait > cost:
                    cost = wait
            if cost < least:
                best, least = gauge, cost
        return best.member

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

    Attributes:
        rate: ``1 / tau``.
    """

    def __init__(self, tau: float = 3.0) -> None:
        self.rate = rate_of(tau)

    def gauge(self, member: Member) -> _StrainGauge:
        """Return a new gauge for the member."""
        return _StrainGauge(member, self.rate)


class _StrainGauge:
    """One member's strain. Whatever happens there is written on a board at once, if there is one."""

    __slots__ = ("_average", "_board", "_place", "_rate", "_stamp", "_streams", "leases", "member", "since")

    def __init__(self, member: Member, rate: float) -> None:
        self.member = member
        self.leases = member.leases
        self._rate = rate
        # 0: unknown.
        self._average = 0.0
        self._stamp = 0.0
        self.since = NEVER
        # As many as there are streams in flight: a count that threads can change without losing anything.
        self._streams: list[None] = []
        self._board: Board | None = None
        self._place = 0

    def hang(self, board: Board, place: int) -> None:
        """Write there from now on."""
        self._board, self._place = board, place
        self._write()

    def cost(self, now: float) -> float:
        """Return what one more RPC would cost now."""
        decayed = self._average * math.exp((self._stamp - now) * self._rate)
        return max(decayed, self.waited(now)) * (len(self.leases) + 1)

    def waited(self, now: float) -> float:
        """Return the stall; the least that any call takes if there is none."""
        stall = now - self.since
        return stall if stall > LEAST else LEAST

    def started(self, now: float, timed: bool) -> None:
        """Begin to wait, unless others wait already."""
        if not timed:
            self._streams.append(None)
        elif self.since == NEVER:
            # As if the probe had been out for long: nobody follows it.
            if not self._average:
                self.since = now - PROBE
                self._write()
                return
            self.since = now
        board = self._board
        if board is not None:
            # One more in flight than was written down.
            running = len(self.leases)
            board.costs[self._place] *= (running + 1) / running if running else 1.0

    def answered(self, now: float, latency: float | None) -> None:
        """Average the latency in."""
        if latency is None:
            self._streams.pop()
            self._write()
            return
        # `_learn` and `_write`, written out.
        average, rate = self._average, self._rate
        if average:
            latency += (average - latency) * KEEP * math.exp((self._stamp - now) * rate)
        self._average = average = latency if latency > LEAST else LEAST
        self._stamp = now
        running = len(self.leases)
        self.since = now if running > len(self._streams) else NEVER
        board = self._board
        if board is not None:
            epoch = board.epoch
            age = (now - epoch) * rate
            board.costs[self._place] = average * math.exp(age if age < SCALE else SCALE) * (running + 1)
            if board.epoch != epoch:
                self._write()

    def failed(self, now: float, latency: float | None) -> None:
        """Remember the failure."""
        if latency is None:
            self._streams.pop()
            latency = 0.0
        left = self._average * math.exp((self._stamp - now) * self._rate)
        self._learn(now, max(left, latency, FAILURE))

    def dropped(self, now: float, latency: float | None) -> None:
        """Average the time in that the caller has waited in vain, if it was longer than usual."""
        if latency is None or latency > self._average > 0:
            self.answered(now, latency)
            return
        self.since = now if len(self.leases) > len(self._streams) else NEVER
        self._write()

    def _learn(self, now: float, average: float) -> None:
        self._average = average if average > LEAST else LEAST
        self._stamp = now
        self.since = now if len(self.leases) > len(self._streams) else NEVER
        self._write()

    def _write(self) -> None:
        board = self._board
        if board is None:
            return
        while True:
            epoch = board.epoch
            age = (self._stamp - epoch) * self._rate
            # More than that only if nothing was picked for so long; the next pick begins a new epoch.
            scaled = self._average * math.exp(age if age < SCALE else SCALE)
            board.costs[self._place] = scaled * (len(self.leases) + 1)
            if board.epoch == epoch:
                return


# A gauge like any other: `PowerOfTwo(Strain())` works as well.
_: type[Gauge] = _StrainGauge
