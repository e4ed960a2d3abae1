"""The member that promises the quickest answer."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from math import exp, log2

from .base import Clock, Member, Meter, Picker
from .load import FAILURE, LEAST, PROBE, Gauge, rate_of

__all__ = ["Adaptive", "Strain"]

# How much of the average a new sample leaves, if it comes right after the last. In simulations of noisy servers (their
# service times exponentially distributed), keeping 70 to 90 % did about equally well; much less, and a call that is
# slow by chance drives everybody off; more, and a server that has become slow is noticed too late.
KEEP = 0.8
# Up to so many members the costs of all are compared, which takes some 15 ns for each.
COMPARED = 64
# Random bits for each pick above that, for two draws in one: a single digit of an interpreter integer, as in
# `PowerOfTwo`. With three thousand members no pair is likelier than another by more than one in 400.
BITS = 30
# For up to so many calls in flight on a member the logarithms are written down beforehand, for all members together.
TABLED = 256
# A member that turns out to cost up to this much more than was written down is taken all the same.
TOLERANCE = 1.1

NEVER = math.inf
# When nothing was learnt of a member that nobody has tried: so long ago that it means nothing.
UNKNOWN = -math.inf


class Adaptive:
    """Gives each RPC to the member that promises the quickest answer, going by how it answers now.

    The cost of a member is ``max(average latency, stall) * (in flight + 1)``; see `Strain`. The *stall* is what sets it
    apart: how long calls have been waiting there without a single answer. It grows while nothing happens, so a member
    that hangs is avoided after about the time that a call usually takes, and not after its calls have timed out.
    Members that fail, fast or slowly, are avoided too; what is avoided is tried again after a while.

    Up to 64 members, all are compared; among more, the next in turn and two drawn at random.

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
        # What each of them costs, by their places; see `_StrainGauge`.
        costs = [0.0] * len(gauges)
        for place, gauge in enumerate(gauges):
            gauge.hang(costs, place)
        rule = _least_of_all if len(gauges) <= COMPARED else _least_of_three
        return rule(gauges, costs, rng, clock, self._load.half * log2(TOLERANCE))


def _least_of_all(
    gauges: list[_StrainGauge], costs: list[float], rng: random.Random, clock: Clock, slack: float
) -> Picker:
    places = range(len(gauges))
    turn = itertools.cycle(places).__next__

    def pick() -> Member:
        place = turn()
        # Quicker than `min` since Python 3.11, where comparing two numbers is no longer a call.
        least = its = costs[place]
        for cost in costs:
            if cost < least:
                least = cost
        # Equals take turns.
        if least < its:
            try:
                place = costs.index(least)
            except ValueError:
                # Another thread has just written something else there.
                place = min(places, key=costs.__getitem__)
        gauge = gauges[place]
        if clock() < gauge.patient:
            return gauge.member
        return _corrected(place, places, gauges, costs, clock, slack)

    return pick


def _least_of_three(
    gauges: list[_StrainGauge], costs: list[float], rng: random.Random, clock: Clock, slack: float
) -> Picker:
    # The next in turn, one of the half before it and one of the other half, counted round the end: three distinct ones.
    count = len(gauges)
    turn = itertools.cycle(range(count)).__next__
    near = (count - 1) // 2
    far = count - 1 - near
    bits = rng.getrandbits

    def pick() -> Member:
        first = place = turn()
        draw = bits(BITS)
        second, third = first - 1 - draw % near, first - 1 - near - draw // near % far
        if costs[second] < costs[place]:
            place = second
        if costs[third] < costs[place]:
            place = third
        gauge = gauges[place]
        if clock() < gauge.patient:
            return gauge.member
        return _corrected(place, (first, second, third), gauges, costs, clock, slack)

    return pick


def _corrected(
    place: int, among: Sequence[int], gauges: list[_StrainGauge], costs: list[float], clock: Clock, slack: float
) -> Member:
    """Return the member that costs least among some, stalls included; `place` is that which does so on paper."""
    # Mostly the first one is right. When all had to be corrected, it is the least of them.
    for _ in among:
        gauge, now = gauges[place], clock()
        if gauge.is_right(now, costs[place] + slack):
            break
        gauge.correct(now)
        for other in among:
            if costs[other] < costs[place]:
                place = other
    return gauges[place].member


class Strain:
    """A load metric: ``max(average * exp(-age / tau), stall) * (in flight + 1)``.

    The average is over latencies; a sample weighs ``1 - 0.8 * max(0, 1 - dt / tau)``, where dt is the time since the
    last one: a fifth of the whole if calls follow each other closely, all of it after tau. The average decays with its
    age when it is read, so that a member that is avoided is tried again. A failure counts as a latency of one second at
    least, and replaces the average at once.

    The stall is the time since the last answer, or, if nothing was in flight then, since the first call after it; 0
    while nothing is in flight. Streams are in flight like all calls, but are not waited for: they cause no stall.

    Of a member that nobody has tried yet, nothing is known: it gets one call, and no other until that has ended.

    Arguments:
        tau: seconds in which a lesson is forgotten to 37 %. A member that was a hundred times slower than the others
            is tried again after 4.6 times that.

    Attributes:
        rate: ``1 / tau``.
        half: seconds in which a lesson is forgotten to one half.
    """

    def __init__(self, tau: float = 3.0) -> None:
        self.rate = rate_of(tau)
        self.half = tau * math.log(2)
        self._rises = tuple(self.half * log2(running + 1) for running in range(TABLED))

    def gauge(self, member: Member) -> _StrainGauge:
        """Return a new gauge for the member."""
        return _StrainGauge(member, self.rate, self.half, self._rises)


class _StrainGauge:
    """One member's strain, which is written on a list of costs whenever something happens there.

    Costs change with time as well. Averages decay: but all at the same rate, so what is written is the time at which
    ``average * (in flight + 1)`` will have decayed to 1, or had. Those times stay what they are, and the least of them
    is the least cost at any time. Stalls grow: so what is written may be too early, and whoever finds the least
    corrects it before he believes it.

    Any thread may be interrupted anywhere, and go on with what is no longer so. Therefore whoever has written looks
    again afterwards, and writes again if anything has changed: so the last one to write has written what is so. Only
    `started` does not look: the end of the same call will, and if that never comes, the next one that starts there.

    Attributes:
        since: when calls began to wait for an answer; `NEVER` if none does.
        patient: until when what is written is right, however long calls wait; `NEVER` while nothing is in flight.
    """

    __slots__ = (
        "_brief",
        "_fade",
        "_half",
        "_lesson",
        "_rate",
        "_rises",
        "_slot",
        "_streams",
        "leases",
        "member",
        "patient",
        "since",
    )

    def __init__(self, member: Member, rate: float, half: float, rises: Sequence[float]) -> None:
        self.member = member
        self.leases = member.leases
        self._rate = rate
        self._fade = KEEP * rate
        self._half = half
        self._rises = rises
        # An average decays by no more than `TOLERANCE` makes good in that time. So until then nobody who has waited for
        # less than the average makes a difference.
        self._brief = math.log(TOLERANCE) / rate
        # The average, the time it is from, and the time at which it will have decayed to 1. In one attribute, like all
        # that belongs together: no thread sees one of them without the others.
        self._lesson = (LEAST, UNKNOWN, UNKNOWN)
        self.since = self.patient = NEVER
        # As many as there are streams in flight: a count that threads can change without losing anything.
        self._streams: list[None] = []
        # Where to write.
        self._slot: tuple[list[float], int] = ([0.0], 0)

    def hang(self, costs: list[float], place: int) -> None:
        """Write there from now on."""
        self._slot = costs, place
        self._write()

    def cost(self, now: float) -> float:
        """Return what one more RPC would cost now."""
        return max(self._left(now), now - self.since, LEAST) * (len(self.leases) + 1)

    def is_right(self, now: float, written: float) -> bool:
        """Say whether no stall makes the member cost more than what is written."""
        running = len(self.leases)
        return not running or now + self._half * log2(max(now - self.since, LEAST)) + self._rise(running) <= written

    def correct(self, now: float) -> None:
        """Write down what it costs now, calls that wait included."""
        if self.since != NEVER and len(self._streams) >= len(self.leases):
            # All that wait are streams: one that began just when the last other call ended was taken for such a call.
            self._settle(now)
        costs, place = self._slot
        while True:
            running, since = len(self.leases), self.since
            costs[place] = now + self._half * log2(self.cost(now))
            if len(self.leases) == running and self.since == since:
                return

    def started(self, now: float, timed: bool) -> None:
        """Begin to wait, unless others wait already."""
        if not timed:
            self._streams.append(None)
            if self.patient == NEVER:
                self.patient = self._patience(now, 0)
        elif self.since == NEVER or self.patient == NEVER:
            # Only one of them: whoever was about to set the other may have been kept from it, by Ctrl-C.
            # A probe: as if it had been out for long, and nobody follows it.
            self.since = now if self._lesson[1] > UNKNOWN else now - PROBE
            self.patient = self._patience(now, 1)
        costs, place = self._slot
        running = len(self.leases)
        try:
            costs[place] = self._lesson[2] + self._rises[running]
        except IndexError:
            costs[place] = self._lesson[2] + self._rise(running)

    def answered(self, now: float, latency: float | None) -> None:
        """Average the latency in."""
        if latency is None:
            self._end_of_stream()
            if self.leases:
                self._write()
            else:
                self._settle(now)
            return
        average, stamp, _ = self._lesson
        keep = KEEP - (now - stamp) * self._fade
        if keep > 0:
            # Above `KEEP`: another thread came first with what is later.
            latency += (average - latency) * (keep if keep < KEEP else KEEP)
        average = latency if latency > LEAST else LEAST
        level = now + self._half * log2(average)
        self._lesson = lesson = average, now, level
        # `_settle`, written out.
        leases = self.leases
        running = len(leases)
        if (running and not self._streams) or running > len(self._streams):
            self.since = now
            self.patient = now + (average if average < self._brief else self._brief)
        else:
            # In this order: nobody is to believe that calls wait, but need not be looked at.
            self.patient = self._patience(now, 0) if running else NEVER
            self.since = NEVER
        costs, place = self._slot
        try:
            costs[place] = level + self._rises[running]
        except IndexError:
            costs[place] = level + self._rise(running)
        if len(leases) != running or self._lesson is not lesson:
            self._settle(now)

    def failed(self, now: float, latency: float | None) -> None:
        """Remember the failure."""
        if latency is None:
            self._end_of_stream()
            latency = 0.0
        average = max(self._left(now), latency, FAILURE)
        self._lesson = average, now, now + self._half * log2(average)
        self._settle(now)

    def dropped(self, now: float, latency: float | None) -> None:
        """Average the time in that the caller has waited in vain, if it was longer than usual."""
        average, stamp, _ = self._lesson
        if latency is None or (latency > average and stamp > UNKNOWN):
            self.answered(now, latency)
        else:
            # That was no answer, so if others wait, they go on waiting as they did.
            self._write()
            if len(self._streams) >= len(self.leases):
                self._settle(now)

    def _rise(self, running: int) -> float:
        """Return by how much what is written rises with the calls in flight."""
        return self._half * log2(running + 1)

    def _left(self, now: float) -> float:
        """Return what is left of the average."""
        average, stamp, _ = self._lesson
        return average * exp(min(stamp - now, 0.0) * self._rate)

    def _patience(self, now: float, waiting: int) -> float:
        """Return until when what is written is right if so many calls begin to wait now, beside streams."""
        average, stamp, level = self._lesson
        # For streams alone: until the average is below what counts as the least.
        return min(now + average, stamp + self._brief) if waiting > 0 else level - self._half * log2(LEAST)

    def _end_of_stream(self) -> None:
        del self._streams[-1:]

    def _settle(self, now: float) -> None:
        """Note that whoever waits does so from now on, and write down the cost."""
        while True:
            running, lesson = len(self.leases), self._lesson
            waiting = running - len(self._streams)
            self.patient = self._patience(now, waiting) if running else NEVER
            self.since = now if waiting > 0 else NEVER
            self._write()
            if len(self.leases) == running and self._lesson is lesson:
                return

    def _write(self) -> None:
        """Write down the cost, stalls not included."""
        costs, place = self._slot
        while True:
            running, lesson = len(self.leases), self._lesson
            costs[place] = lesson[2] + self._rise(running)
            if len(self.leases) == running and self._lesson is lesson:
                return


# A gauge like any other: `PowerOfTwo(Strain())` works as well.
_: type[Gauge] = _StrainGauge
