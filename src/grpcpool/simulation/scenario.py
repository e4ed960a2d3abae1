"""What is simulated: backends, clients, load, and what happens to them. All times are seconds from the start."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

from .. import checks
from ..errors import ConfigError

__all__ = ["DISTRIBUTIONS", "Antagonist", "Backends", "Failure", "Resize", "Scenario", "Slowdown"]

DISTRIBUTIONS = ("exponential", "normal")

# Of the measured part of a run that is made shorter, what comes first and is not measured.
WARM_UP_SHARE = 1 / 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowdown:
    """Slower for a while.

    Attributes:
        start, end: a call that a worker takes up from `start` on and before `end` takes longer.
        factor: how many times as long; below 1 it is quicker.
    """

    start: float
    end: float
    factor: float

    def __post_init__(self) -> None:
        checks.seconds("start", self.start, at_least=0)
        checks.seconds("end", self.end)
        checks.require(self.end > self.start, "end", self.end, f"seconds above start, which is {self.start:g}")
        _above_zero("factor", self.factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Antagonist:
    """A neighbour on each backend's machine that slows it down now and then, each at random times of its own.

    Attributes:
        every: mean time from one beginning to the next.
        lasts: mean time from a beginning to its end. That and the pause after it are both exponentially distributed:
            most are short, a few are several times as long, and when they begin or end nobody can tell.
        least, most: each time, calls take so many times as long: drawn uniformly between both.
    """

    every: float
    lasts: float
    least: float
    most: float

    def __post_init__(self) -> None:
        checks.seconds("lasts", self.lasts)
        checks.seconds("every", self.every)
        checks.require(self.every > self.lasts, "every", self.every, f"seconds above lasts, which is {self.lasts:g}")
        _above_zero("least", self.least)
        _above_zero("most", self.most)
        checks.require(self.most >= self.least, "most", self.most, f"least, which is {self.least:g}, or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Refuses at once: every call ends UNAVAILABLE after one round trip.

    Attributes:
        start, end: between these times; without an end, for good.
    """

    start: float = 0.0
    end: float | None = None

    def __post_init__(self) -> None:
        checks.seconds("start", self.start, at_least=0)
        if self.end is not None:
            checks.seconds("end", self.end)
            checks.require(self.end > self.start, "end", self.end, f"seconds above start, which is {self.start:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """Some backends that are alike.

    Attributes:
        count: how many.
        workers: calls that each serves at once, the others wait in the order in which they came; 0: no limit.
        distribution: of the time that serving a call takes: ``"exponential"`` or ``"normal"``.
        service: its mean.
        sigma: its standard deviation, if it is normal. What is drawn below 0 counts as 0.
        weight: of its endpoint, for strategies that go by it.
        joins, leaves: when they become members of every client's pool, and when they cease to be.
        slow: times at which they are slower.
        antagonist: slows them down now and then.
        fails: they refuse calls.
        hangs: from then on they take calls and answer none, nor those that they were serving.
    """

    count: int = 1
    workers: int = 4
    distribution: str = "exponential"
    service: float = 0.010
    sigma: float = 0.0
    weight: float = 1.0
    joins: float = 0.0
    leaves: float | None = None
    slow: tuple[Slowdown, ...] = ()
    antagonist: Antagonist | None = None
    fails: Failure | None = None
    hangs: float | None = None

    def __post_init__(self) -> None:
        checks.integer("count", self.count, at_least=1)
        checks.integer("workers", self.workers, at_least=0)
        known = " or ".join(repr(name) for name in DISTRIBUTIONS)
        checks.require(self.distribution in DISTRIBUTIONS, "distribution", self.distribution, known)
        checks.seconds("service", self.service)
        checks.seconds("sigma", self.sigma, at_least=0)
        _above_zero("weight", self.weight)
        checks.seconds("joins", self.joins, at_least=0)
        if self.leaves is not None:
            checks.seconds("leaves", self.leaves)
            allowed = f"seconds above joins, which is {self.joins:g}"
            checks.require(self.leaves > self.joins, "leaves", self.leaves, allowed)
        if self.hangs is not None:
            checks.seconds("hangs", self.hangs, at_least=0)
        ends = [0.0, *accumulate((slow.end for slow in self.slow), max)]
        for slow, before in zip(self.slow, ends, strict=False):
            checks.require(slow.start >= before, "slow", slow.start, f"a start at {before:g}, where the last ended")
        if self.slow and self.antagonist is not None:
            raise ConfigError("antagonist", "one beside slow", "only one of both")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """Members come and go.

    The backends stand in a ring, and an arc of it are the members. It grows at its front and shrinks at its tail, so
    that those leave that have been members longest.

    Attributes:
        every: time between two steps.
        sizes: how many are members at first, after the first step, and so on, over and over.
    """

    every: float
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        checks.seconds("every", self.every)
        allowed = "a list of one or more integers of 1 or more"
        checks.require(isinstance(self.sizes, tuple), "sizes", self.sizes, allowed, wrong_type=True)
        checks.require(bool(self.sizes), "sizes", "nothing", allowed)
        for size in self.sizes:
            checks.integer("sizes", size, at_least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is simulated.

    Attributes:
        name: short, for tables.
        title: what happens, in a line.
        backends: groups of backends that are alike.
        clients: each with a pool of its own, which knows nothing of the others.
        load: calls that arrive, as a share of what the backends that are members at first can do: their workers,
            divided by their mean service time. What slows them down later is not taken into account.
        qps: calls that arrive in a second, all clients together. Either this or `load` is given.
        duration: for how long calls arrive.
        warm_up: calls that arrive before are not measured.
        timeout: the deadline of every call.
        round_trip: what the network takes of each call.
        resize: members come and go.
        keys: how many different affinity keys calls have, for strategies that go by them.
    """

    name: str
    title: str = ""
    backends: tuple[Backends, ...]
    clients: int = 10
    load: float | None = None
    qps: float | None = None
    duration: float = 30.0
    warm_up: float = 5.0
    timeout: float = 5.0
    round_trip: float = 0.0005
    resize: Resize | None = None
    keys: int = 1000

    def __post_init__(self) -> None:
        for field in ("name", "title"):
            checks.require(isinstance(getattr(self, field), str), field, getattr(self, field), "text", wrong_type=True)
        checks.require(bool(self.backends), "backends", "nothing", "one or more groups of backends")
        checks.integer("clients", self.clients, at_least=1)
        checks.integer("keys", self.keys, at_least=1)
        checks.seconds("duration", self.duration)
        checks.seconds("warm_up", self.warm_up, at_least=0)
        allowed = f"seconds below duration, which is {self.duration:g}"
        checks.require(self.warm_up < self.duration, "warm_up", self.warm_up, allowed)
        checks.seconds("timeout", self.timeout)
        checks.seconds("round_trip", self.round_trip, at_least=0)
        checks.require(
            self.round_trip < self.timeout, "round_trip", self.round_trip, "seconds below timeout, or no call succeeds"
        )
        self._check_members()
        self._check_load()

    def _check_load(self) -> None:
        if self.load is None and self.qps is None:
            raise ConfigError("load", "nothing", "either load or qps must be given")
        if self.load is None:
            _above_zero("qps", self.qps)
            return
        checks.require(self.qps is None, "qps", self.qps, "only one of load and qps")
        _above_zero("load", self.load)
        if math.isinf(self.capacity):
            raise ConfigError("load", f"{self.load:g}", "backends without a limit on workers need qps instead")

    def _check_members(self) -> None:
        if self.resize is not None:
            size = self.size
            for wanted in self.resize.sizes:
                checks.require(wanted <= size, "sizes", wanted, f"at most {size}, which is how many backends there are")
            if any(group.joins or group.leaves is not None for group in self.backends):
                raise ConfigError("resize", "one beside joins or leaves", "only one of both")
            return
        for time in (0.0, *(group.leaves for group in self.backends if group.leaves is not None)):
            if time < self.duration and not any(_is_member(group, time) for group in self.backends):
                raise ConfigError("backends", f"nobody from {time:g} s on", "at least one member at any time")

    @property
    def heading(self) -> str:
        """Its name, and its title if it has one."""
        return f"{self.name}: {self.title}" if self.title else self.name

    @property
    def size(self) -> int:
        """How many backends there are, members or not."""
        return sum(group.count for group in self.backends)

    @property
    def capacity(self) -> float:
        """Calls that the members at the beginning can serve in a second; infinite if there is one without a limit."""
        each = [group for group in self.backends for _ in range(group.count)]
        if self.resize is not None:
            each = each[: self.resize.sizes[0]]
        return sum(group.workers / group.service if group.workers else math.inf for group in each if not group.joins)

    @property
    def rate(self) -> float:
        """Calls that arrive in a second."""
        return self.qps if self.load is None else self.load * self.capacity  # type: ignore[return-value]

    def adjusted(
        self, *, size: int | None = None, load: float | None = None, duration: float | None = None
    ) -> Scenario:
        """Return the scenario with other values for what is not None.

        Arguments:
            size: how many backends there are. Each group keeps one, and what it has beyond that grows or shrinks in
                proportion; so a group of one stays one. The sizes of a `Resize` change in proportion, too.
            load: as in the scenario.
            duration: as in the scenario. A warm-up that is too long for it is made shorter.

        Raises:
            ConfigError: a value is not allowed.
        """
        changes: dict[str, Any] = {}
        if size is not None:
            changes["backends"] = self._resized(size)
            if self.resize is not None:
                sizes = tuple(max(1, round(old * size / self.size)) for old in self.resize.sizes)
                changes["resize"] = replace(self.resize, sizes=sizes)
        if load is not None:
            changes.update(load=load, qps=None)
        if duration is not None:
            checks.seconds("duration", duration)
            changes.update(duration=duration, warm_up=min(self.warm_up, duration * WARM_UP_SHARE))
        return replace(self, **changes) if changes else self

    def _resized(self, size: int) -> tuple[Backends, ...]:
        checks.integer("size", size, at_least=len(self.backends))
        beyond = [group.count - 1 for group in self.backends]
        if not any(beyond):
            beyond[0] = 1
        spare = size - len(self.backends)
        # Rounding the running total, and not each, keeps the sum.
        edges = [round(total * spare / sum(beyond)) for total in accumulate(beyond, initial=0)]
        return tuple(
            replace(group, count=1 + end - start)
            for group, (start, end) in zip(self.backends, pairwise(edges), strict=True)
        )


def _is_member(group: Backends, time: float) -> bool:
    return group.joins <= time and (group.leaves is None or time < group.leaves)


def _above_zero(field: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    checks.require(number, field, value, "a number above 0", wrong_type=True)
    checks.require(0 < value < math.inf, field, value, "a number above 0")
