"""Load metrics: what makes one member a worse choice than another.

A metric is apart from the rule that chooses by it. It puts a *gauge* on every member: a meter that also says what it
would cost to give the member one more RPC. Costs are compared with each other and mean nothing by themselves.

No gauge takes a lock. What two threads write at once, one of them loses: a sample of many, which an average can bear.
A thread may also come late, with a time that is past when it has its turn; then nothing has decayed yet.
"""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import Protocol

from .base import Member, Meter

__all__ = ["FAILURE", "LEAST", "PROBE", "Failures", "Gauge", "InFlight", "Load", "PeakEwma", "rate_of"]

# Seconds that a call is supposed to take on a member of which nothing is known but that it is busy with its first call:
# longer than any does, so that one probe is all it gets; not infinite, so that two such members can be compared.
PROBE = 1e3
# The least that a call is supposed to take: less than any does. Below it all members are equally good.
LEAST = 1e-6
# A failure counts as an answer after this time, if it came sooner. Else a member that refuses at once would pass for
# the quickest of all, and get all the calls.
FAILURE = 1.0


class Gauge(Meter, Protocol):
    """What one member costs. A meter, so it is told of every RPC on the member."""

    @property
    def member(self) -> Member:
        """Whose gauge it is."""
        ...

    def cost(self, now: float) -> float:
        """Return what one more RPC on the member would cost now: the higher, the worse. Called from any thread."""
        ...


class Load(Protocol):
    """A load metric."""

    def gauge(self, member: Member) -> Gauge:
        """Return a new gauge for the member."""
        ...


class InFlight:
    """RPCs in flight."""

    def gauge(self, member: Member) -> Gauge:
        """Return a new gauge for the member."""
        return _InFlightGauge(member)


class _InFlightGauge:
    __slots__ = ("_leases", "member")

    def __init__(self, member: Member) -> None:
        self.member = member
        self._leases = member.leases

    def started(self, now: float, timed: bool) -> None:
        pass

    def answered(self, now: float, latency: float | None) -> None:
        pass

    failed = dropped = answered

    def cost(self, now: float) -> float:
        return len(self._leases) + 1


class PeakEwma:
    """Latency, with a long memory for bad news: ``average * (in flight + 1)``.

    A latency above the average replaces it at once; one below it is averaged in with weight ``1 - exp(-dt / tau)``,
    where dt is the time since the last one. Read, the average decays with the same time constant, so that a member that
    is avoided is tried again. A failure counts as a latency of one second at least. (From Finagle's load balancer of
    that name.)

    Of a member that nobody has tried yet, nothing is known: it gets one call, and no other until that has ended.

    Arguments:
        tau: seconds in which a lesson is forgotten to 37 %.
    """

    def __init__(self, tau: float = 10.0) -> None:
        self._rate = rate_of(tau)

    def gauge(self, member: Member) -> Gauge:
        """Return a new gauge for the member."""
        return _PeakEwmaGauge(member, self._rate)


class _PeakEwmaGauge:
    __slots__ = ("_average", "_leases", "_rate", "_stamp", "member")

    def __init__(self, member: Member, rate: float) -> None:
        self.member = member
        self._leases = member.leases
        self._rate = rate
        self._average: float | None = None
        self._stamp = 0.0

    def started(self, now: float, timed: bool) -> None:
        pass

    def answered(self, now: float, latency: float | None) -> None:
        if latency is None:
            return
        average = self._average
        if average is not None:
            age = now - self._stamp
            weight = math.exp(-age * self._rate) if age > 0 else 1.0
            if latency < average * weight:
                latency += (average - latency) * weight
        self._average = latency
        self._stamp = now

    def failed(self, now: float, latency: float | None) -> None:
        self.answered(now, max(latency or 0.0, FAILURE))

    def dropped(self, now: float, latency: float | None) -> None:
        # It would have taken that long at least, which is news only if it is bad.
        average = self._average
        if latency is not None and average is not None and latency > average:
            self.answered(now, latency)

    def cost(self, now: float) -> float:
        running = len(self._leases)
        average = self._average
        if average is None:
            return (PROBE if running else LEAST) * (running + 1)
        age = now - self._stamp
        decayed = average * math.exp(-age * self._rate) if age > 0 else average
        return max(decayed, LEAST) * (running + 1)


class Failures:
    """RPCs in flight, with a penalty for failures: ``(in flight + 1) * (1 + failures)``.

    Each failure counts 1 when it happens and is forgotten gradually: there is no moment at which a member is let in
    again, and no time for which it is shut out. More than ten are not counted, so that what is over is soon forgotten.

    Arguments:
        tau: seconds in which a failure is forgotten to 37 %.
    """

    def __init__(self, tau: float = 10.0) -> None:
        self._rate = rate_of(tau)

    def gauge(self, member: Member) -> Gauge:
        """Return a new gauge for the member."""
        return _FailuresGauge(member, self._rate)


class _FailuresGauge:
    __slots__ = ("_count", "_leases", "_rate", "_stamp", "member")

    MOST = 10.0

    def __init__(self, member: Member, rate: float) -> None:
        self.member = member
        self._leases: Sized = member.leases
        self._rate = rate
        self._count = 0.0
        self._stamp = 0.0

    def started(self, now: float, timed: bool) -> None:
        pass

    def answered(self, now: float, latency: float | None) -> None:
        pass

    dropped = answered

    def failed(self, now: float, latency: float | None) -> None:
        self._count = min(self._left(now) + 1, self.MOST)
        self._stamp = now

    def cost(self, now: float) -> float:
        return (len(self._leases) + 1) * (1 + self._left(now))

    def _left(self, now: float) -> float:
        return self._count * math.exp(min(self._stamp - now, 0.0) * self._rate) if self._count else 0.0


def rate_of(tau: float) -> float:
    """Return the inverse of a time constant, which must be one."""
    # The second half: of the smallest numbers there are, the inverse is infinite.
    if not 0 < tau < math.inf or (rate := 1 / tau) == math.inf:
        raise ValueError(f"tau must be a time in seconds above 0, not {tau!r}")
    return rate
