"""Calls that are made when it is time, whether or not those before them have ended."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from .contenders import Call
from .scenarios import SERVICE, Scenario

__all__ = ["OK", "Outcome", "Sample", "Shot", "drive", "plan"]

OK = "OK"


@dataclass(frozen=True, slots=True)
class Shot:
    """One call that is to be made.

    Attributes:
        at: seconds after the warm-up; negative: part of it.
        client: who makes it.
        request: how much work it is.
    """

    at: float
    client: int
    request: bytes


@dataclass(frozen=True, slots=True)
class Sample:
    """One call that has ended.

    Attributes:
        at: when it was to be made, in seconds after the warm-up.
        latency: seconds from then to its end. A call that was made late has waited, and that counts.
        code: the name of its status code.
        backend: whose answer it is; None if there was no answer.
    """

    at: float
    latency: float
    code: str
    backend: int | None


@dataclass(slots=True)
class Outcome:
    """What a load came to.

    Attributes:
        samples: of the calls after the warm-up, in the order they ended in.
        cpu: seconds of processor time that this process used from then on.
        late: by how much each of those calls was made late, in seconds.
        reasons: what the first error of each status code said.
    """

    samples: list[Sample] = field(default_factory=list)
    cpu: float = 0.0
    late: list[float] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def plan(scenario: Scenario, seed: str) -> list[Shot]:
    """Return the calls of one round: Poisson arrivals, exponential work. The same seed gives the same calls."""
    rng = random.Random(seed)
    shots = []
    at = rng.expovariate(scenario.rate) - scenario.warm_up
    while at < scenario.seconds:
        shots.append(Shot(at, rng.randrange(scenario.clients), b"%.6f" % rng.expovariate(1 / SERVICE)))
        at += rng.expovariate(scenario.rate)
    return shots


async def drive(shots: Sequence[Shot], calls: Sequence[Call], deadline: float, begun: asyncio.Event) -> Outcome:
    """Make the calls, and return when all have ended.

    Arguments:
        shots: what to call when.
        calls: by client.
        deadline: of each call, in seconds.
        begun: is set when the warm-up is over.
    """
    loop = asyncio.get_running_loop()
    outcome = Outcome()
    tasks: list[asyncio.Task[None]] = []
    epoch = loop.time() - shots[0].at

    async def make(shot: Shot, call: Call) -> None:
        code, backend = OK, None
        try:
            backend = (await call(shot.request, timeout=deadline))[0]
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            outcome.reasons.setdefault(code, error.details() or "")
            said = dict(error.trailing_metadata() or ()).get("backend")
            backend = None if said is None else int(said)
        if shot.at >= 0:
            outcome.samples.append(Sample(shot.at, loop.time() - epoch - shot.at, code, backend))

    cpu = time.process_time()
    for shot in shots:
        wait = epoch + shot.at - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        if shot.at >= 0:
            if not begun.is_set():
                begun.set()
                cpu = time.process_time()
            outcome.late.append(loop.time() - epoch - shot.at)
        tasks.append(loop.create_task(make(shot, calls[shot.client])))
    await asyncio.gather(*tasks)
    outcome.cpu = time.process_time() - cpu
    return outcome
