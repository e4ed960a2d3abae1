"""Calls that are made when it is time, whether or not those before them have ended."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..overload.load import OK, name_of

__all__ = ["OK", "Sample", "Shot", "drive", "drive_aio", "plan"]

REQUEST = b"sixteen raw byte"


@dataclass(frozen=True, slots=True)
class Shot:
    """One call that is to be made.

    Attributes:
        at: seconds after the warm-up; negative: part of it.
        timeout: its deadline, in seconds.
        patient: it waits until a server is there (``wait_for_ready``).
    """

    at: float
    timeout: float
    patient: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One call that has ended. Times are in seconds after the warm-up.

    Attributes:
        shot: what was to be made.
        began, ended: when it really was.
        code: the name of its status code, or of the exception if that is none of grpc's.
        details: what a failure said.
        backend: whose answer it is; None if there was no answer.
    """

    shot: Shot
    began: float
    ended: float
    code: str
    details: str
    backend: int | None

    @property
    def at(self) -> float:
        """When it was to be made."""
        return self.shot.at

    @property
    def latency(self) -> float:
        """Seconds from when it was to be made. A call that was made late has waited, and that counts."""
        return self.ended - self.shot.at

    @property
    def took(self) -> float:
        """Seconds from when it was made."""
        return self.ended - self.began


def plan(rate: float, warm_up: float, seconds: float, timeout: float, seed: str) -> list[Shot]:
    """Return calls that arrive as they do in life (Poisson). The same seed gives the same calls."""
    rng = random.Random(seed)
    shots = []
    at = rng.expovariate(rate) - warm_up
    while at < seconds:
        shots.append(Shot(at, timeout))
        at += rng.expovariate(rate)
    return shots


def _made(shot: Shot, began: float, ended: float, answer: bytes | None, error: Any) -> Sample:
    if error is None:
        assert answer is not None
        return Sample(shot, began, ended, OK, "", answer[0])
    details = str(error.details() if hasattr(error, "details") else error)
    trailing = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    said = dict(trailing or ()).get("backend")
    return Sample(shot, began, ended, name_of(error), details, None if said is None else int(said))


def _arguments(shot: Shot) -> dict[str, Any]:
    return {"timeout": shot.timeout, **({"wait_for_ready": True} if shot.patient else {})}


def drive(shots: Sequence[Shot], call: Callable[..., Any], workers: int, epoch: float) -> list[Sample]:
    """Make the calls from a pool of threads; return when all have ended.

    Arguments:
        epoch: when the warm-up is over, by ``time.monotonic``.
    """

    def make(shot: Shot) -> Sample:
        answer = failed = None
        began = time.monotonic() - epoch
        try:
            answer = call(REQUEST, **_arguments(shot))
        except Exception as error:
            failed = error
        return _made(shot, began, time.monotonic() - epoch, answer, failed)

    with ThreadPoolExecutor(workers) as threads:
        futures = []
        for shot in shots:
            wait = epoch + shot.at - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            futures.append(threads.submit(make, shot))
        return [future.result() for future in futures]


async def drive_aio(shots: Sequence[Shot], call: Callable[..., Any], epoch: float) -> list[Sample]:
    """Make the calls, each in a task; as `drive`."""

    async def make(shot: Shot) -> Sample:
        answer = failed = None
        began = time.monotonic() - epoch
        try:
            answer = await call(REQUEST, **_arguments(shot))
        except Exception as error:
            failed = error
        return _made(shot, began, time.monotonic() - epoch, answer, failed)

    tasks = []
    for shot in shots:
        wait = epoch + shot.at - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(make(shot)))
    return await asyncio.gather(*tasks)
