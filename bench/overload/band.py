"""A steady load right at an edge of the band: how often pools of varying size change their minds in a minute.

Several pools at the same time, none of which has enough to do to be in another one's way. A load is either a number of
callers, each with one call after the other, which is as steady as it gets; or calls that arrive at random (Poisson),
with the same number under way on average, which crosses the edge all the time.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any

from grpcpool.testing import ServerProcess

from ..report import Figure
from .calls import unary, unary_aio
from .clients import ROOMS, Client, opened, opened_aio
from .isolated import isolated
from .load import OK, Load, Sample, name_of, tasks, threads
from .plan import Plan, Result
from .resizes import UNSAMPLED, Resizes

__all__ = ["TITLE", "case", "measure"]

TITLE = "a steady load at the band's edge"

# Long calls make a large number under way out of few calls a second.
DELAY = 1.0
MOST = 16
BAR = 2


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """One pool with its load.

    Attributes:
        band: RPCs in flight per member, from and to.
        size: what the pool begins with.
        load: calls under way; on average, if they arrive at random.
        random: whether they do.
        judged: whether there is a bar.
    """

    name: str
    band: tuple[int, int]
    size: int
    load: int
    random: bool = False
    judged: bool = True

    def client(self) -> Client:
        """Return the pool."""
        options = {"min_size": 1, "max_size": MOST, "target_in_flight": list(self.band), **UNSAMPLED}
        return Client(self.name, options)


STEADY = (
    Lane("at the upper edge", (10, 20), 4, 80),
    Lane("one above the upper edge", (10, 20), 4, 81),
    Lane("at the lower edge", (10, 20), 8, 80),
    Lane("one below the lower edge", (10, 20), 8, 79),
    # Four members are one too few for 41 calls, and five are too many.
    Lane("band that no size fits", (9, 10), 4, 41),
)
RANDOM = (
    Lane("at the upper edge, random", (10, 20), 4, 80, random=True),
    Lane("at the lower edge, random", (10, 20), 8, 80, random=True),
    # The load varies by more than this band is wide, so it is not steady as far as the pool can tell.
    Lane("band narrower than the load varies", (9, 10), 4, 40, random=True, judged=False),
)
# Thousands of threads would be needed for calls that arrive at random; tasks are cheap.
LANES = {"sync": STEADY, "aio": (*STEADY, *RANDOM)}


def case(room: str, target: str, seconds: float) -> dict[str, Any]:
    """Run all lanes of a room at once."""
    found = _sync(target, seconds) if room == "sync" else asyncio.run(_aio(target, seconds))
    return {"lanes": found}


def _sync(target: str, seconds: float) -> list[dict[str, Any]]:
    lanes = LANES["sync"]
    with ExitStack() as stack, ThreadPoolExecutor(len(lanes)) as executor:

        def run(lane: Lane, pool: Any) -> dict[str, Any]:
            resizes = Resizes()
            pool.resize(lane.size)
            pool.add_listener(resizes)
            resizes.start()
            return _summary(threads([unary(pool)] * lane.load, seconds, warm_up=0.0), resizes)

        pools = [stack.enter_context(opened(lane.client(), target)) for lane in lanes]
        return list(executor.map(run, lanes, pools))


async def _aio(target: str, seconds: float) -> list[dict[str, Any]]:
    async with AsyncExitStack() as stack:

        async def run(number: int, lane: Lane, pool: Any) -> dict[str, Any]:
            resizes, call = Resizes(), unary_aio(pool)
            await pool.resize(lane.size)
            pool.add_listener(resizes)
            resizes.start()
            if lane.random:
                return _summary(await _arrivals(call, lane.load / DELAY, seconds, random.Random(number)), resizes)
            return _summary(await tasks([call] * lane.load, seconds, warm_up=0.0), resizes)

        lanes = LANES["aio"]
        pools = [await stack.enter_async_context(opened_aio(lane.client(), target)) for lane in lanes]
        return await asyncio.gather(*(run(*each) for each in zip(range(len(lanes)), lanes, pools, strict=True)))


async def _arrivals(call: Callable[[], Awaitable[object]], rate: float, seconds: float, rng: random.Random) -> Load:
    """Make so many calls a second, at random, whether or not those before have ended."""
    load, epoch, at = Load(end=seconds), time.monotonic(), 0.0
    running = set()

    async def make() -> None:
        began, problem = time.monotonic() - epoch, None
        try:
            await call()
        except Exception as error:
            problem = error
        load.note(Sample(began, time.monotonic() - epoch, OK if problem is None else name_of(problem)), problem)

    while (at := at + rng.expovariate(rate)) < seconds:
        await asyncio.sleep(max(epoch + at - time.monotonic(), 0))
        task = asyncio.create_task(make())
        running.add(task)
        load.most = max(load.most, len(running))
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return load


def _summary(load: Load, resizes: Resizes) -> dict[str, Any]:
    summary = load.summary()
    # What comes after the end is the pool's answer to that.
    return {**summary, "most": load.most, "resizes": [(when, size) for when, size in resizes.found if when < load.end]}


def measure(plan: Plan) -> Result:
    """Run both rooms at the same time, each in a process of its own."""
    rounds, seconds = plan.how_often(1), plan.how_long(60.0, 15.0)
    result = Result(
        table=[["room", "pool", "band", "size", "load", "at most", "calls", "failed", "resizes", "sizes at seconds"]]
    )
    found: dict[str, list[list[dict[str, Any]]]] = {room: [] for room in ROOMS}
    with ServerProcess(delay=DELAY) as server, ThreadPoolExecutor(len(ROOMS)) as executor:
        for number in range(rounds):
            print(f"band, round {number + 1} of {rounds}: {seconds:g} s", file=sys.stderr)
            answers = executor.map(lambda room: isolated("band", seconds, room=room, target=server.target), ROOMS)
            for room, answer in zip(ROOMS, answers, strict=True):
                found[room].append(answer["lanes"])
    for room in ROOMS:
        for number, lane in enumerate(LANES[room]):
            runs = [lanes[number] for lanes in found[room]]
            calls, failed = (sum(run[of] for run in runs) for of in ("calls", "failed"))
            worst = max(runs, key=lambda run: len(run["resizes"]))["resizes"]
            sizes = ", ".join(f"{size} at {when:.1f}" for when, size in worst)
            most = max(run["most"] for run in runs)
            cells = [
                lane.name,
                f"{lane.band[0]} to {lane.band[1]}",
                lane.size,
                lane.load,
                most,
                calls,
                failed,
                len(worst),
            ]
            result.table.append([room, *map(str, cells), sizes or "-"])
            result.record.append({"room": room, "lane": lane.name, "rounds": runs})
            bar = float(BAR) if lane.judged else None
            note = f"in {seconds:g} s, {most} calls under way at most" + (f": {sizes}" if sizes else "")
            result.figures.append(Figure(f"band, {room}: {lane.name}", len(worst), "resizes", bar, note=note))
        calls, failed = (sum(run[of] for lanes in found[room] for run in lanes) for of in ("calls", "failed"))
        result.figures.append(Figure(f"band, {room}: failed", failed, "calls", 0.0, note=f"of {calls}"))
    return result
