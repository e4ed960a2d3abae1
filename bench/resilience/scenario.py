"""What is asked, and what one contender's run of it comes to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpcpool.testing import Proxy

from ..fleet import Backend
from ..overload.load import percentile
from ..report import Figure
from .contenders import CORE, CYCLE, FAILOVER, POOL
from .load import OK, Sample, Shot, plan
from .servers import Work

__all__ = ["SPECIAL", "Mark", "Run", "Scenario", "Stage"]

# The backend that misbehaves: not the first, which a contender might treat as special by itself.
SPECIAL = 1
USUAL = Work()
# One that was refused at once was not served fast.
SERVED = (OK, "DEADLINE_EXCEEDED")


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was done to a server.

    Attributes:
        what: in a word.
        backend: to which.
        begun, done: seconds after the warm-up.
        cpu: seconds of processor time that the client's process had used by `begun`.
    """

    what: str
    backend: int
    begun: float
    done: float
    cpu: float


class Stage:
    """Where a scenario happens: its servers, its clock, and a place to take down what was done.

    Attributes:
        proxy: in front of the special backend, if the scenario wants one.
        marks: what was done.
    """

    def __init__(self, backends: Sequence[Backend], proxy: Proxy | None, epoch: float) -> None:
        self.backends = backends
        self.proxy = proxy
        self.marks: list[Mark] = []
        self._epoch = epoch

    def until(self, at: float) -> None:
        """Return when so many seconds have passed since the warm-up."""
        time.sleep(max(self._epoch + at - time.monotonic(), 0))

    def now(self) -> float:
        """Return the seconds since the warm-up."""
        return time.monotonic() - self._epoch

    def do(self, what: str, backend: int, action: Callable[[], object]) -> None:
        """Do something, and take it down."""
        begun, cpu = self.now(), time.process_time()
        action()
        self.marks.append(Mark(what, backend, begun, self.now(), cpu))

    def start(self, index: int) -> None:
        """Start a backend again, and return when it serves."""

        def start() -> None:
            self.backends[index].start()
            self.backends[index].wait()

        self.do("start", index, start)


@dataclass(slots=True)
class Run:
    """One contender in one room, once.

    Attributes:
        samples: of the calls after the warm-up, by the time at which they were to be made.
        marks: what was done to the servers.
        cpu: the share of one core that the client's process used.
        busy, stolen: of the whole machine: in use by anybody, and taken away by its host.
        reached: calls that reached a server's application, warm-up included; None if servers did not live to tell.
        sent: calls that were made in all, warm-up included.
        stats: what a pool says of itself in the end.
    """

    room: str
    contender: str
    samples: list[Sample]
    marks: list[Mark]
    cpu: float
    busy: float
    stolen: float
    reached: int | None
    sent: int
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> list[Sample]:
        """The calls that failed."""
        return [sample for sample in self.samples if sample.code != OK]

    @property
    def errors(self) -> Counter[str]:
        """How many failed, by status code."""
        return Counter(sample.code for sample in self.failed)

    def marked(self, what: str) -> list[Mark]:
        """Return when something was done, in order."""
        return [mark for mark in self.marks if mark.what == what]

    def between(self, since: float, until: float) -> list[Sample]:
        """Return the calls that were really made within that time."""
        return [sample for sample in self.samples if since <= sample.began < until]

    def latency(self, percent: float) -> float:
        """Return a percentile of the latencies in seconds, of the calls that succeeded or ran out of time.

        Those that were to wait for a server are left out.
        """
        served = sorted(s.latency for s in self.samples if s.code in SERVED and not s.shot.patient)
        return percentile(served, percent) or float("inf")

    @property
    def late(self) -> float:
        """The 99th percentile of by how much calls were made late, in seconds."""
        return percentile(sorted(s.began - s.at for s in self.samples), 99) or 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One question.

    Attributes:
        name: on the command line.
        title: in print.
        disturb: does to the servers what is to be done; begins with the warm-up, in a thread of its own.
        judge: finds the figures, from the runs by room and contender.
        columns: what is to be seen of a run in the table beyond what is to be seen of every run.
        contenders: who takes part.
        work, ports: of the servers.
        proxied: the special backend is reached through a proxy.
        rate: calls per second.
        seconds: how long it lasts after the warm-up, at least `shortest`.
        timeout: the deadline of each call, in seconds.
        workers: threads that make the calls, in sync code.
        patient: when calls are made besides that wait for a server.
        counted: the servers live to tell how many calls reached them.
    """

    name: str
    title: str
    disturb: Callable[[Stage, float], None]
    judge: Callable[[Mapping[tuple[str, str], Run]], list[Figure]]
    columns: Callable[[Run], dict[str, str]] = lambda run: {}
    contenders: tuple[str, ...] = (CORE, CYCLE, POOL, FAILOVER)
    work: Work = USUAL
    ports: tuple[int, ...] = (1, 1, 1)
    proxied: bool = False
    rate: float = 300.0
    seconds: float
    shortest: float = 2.0
    warm_up: float = 1.5
    timeout: float = 5.0
    workers: int = 64
    patient: tuple[float, ...] = ()
    counted: bool = False

    def shots(self, seconds: float) -> list[Shot]:
        """Return the calls to make, the same for all contenders."""
        calls = plan(self.rate, self.warm_up, seconds, self.timeout, self.name)
        calls += [Shot(at, 30.0, patient=True) for at in self.patient]
        return sorted(calls, key=lambda shot: shot.at)
