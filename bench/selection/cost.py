"""What a call costs in processor time, whoever chooses: pairs of short blocks, as in `bench.calls`.

At a given rate most of a client's time goes into falling asleep and waking up, which hides what is asked for. Here ten
equal backends answer at once, and every contender has one client that keeps sixteen calls under way; blocks of calls
alternate between the contenders, there and back, and what counts is the median of the ratios within each round.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from ..report import Figure, spread
from .contenders import CORE, Call, Contender
from .scenarios import SCENARIOS
from .servers import backends

__all__ = ["figures", "measure"]

CONTROL = f"{CORE}, again"
JUDGED = "adaptive"
PLAIN = "round_robin"
BAR = 1.03
CONCURRENT = 16
# In a block: some ten milliseconds. Only close neighbours share the conditions on a machine that does other work, too.
CALLS = 64
WARMUPS = 10
REQUEST = b"0"
TIMEOUT = 5.0


def measure(field: Sequence[Contender], rounds: int) -> dict[str, list[float]]:
    """Return seconds of processor time per call of this process, by contender and round.

    Core's own round robin takes part twice, the second time as `CONTROL`: what differs there is chance.
    """
    again = [dataclasses.replace(contender, name=CONTROL) for contender in field if contender.name == CORE]
    with backends(SCENARIOS["equal"]) as fleet:
        return asyncio.run(_measure([*field, *again], rounds, fleet.targets))


def figures(costs: Mapping[str, Sequence[float]]) -> list[Figure]:
    """Return everybody's cost as a multiple of core's round robin, and ours with a strategy as one of ours without."""
    pairs = [(name, CORE) for name in costs if name != CORE] + [(JUDGED, PLAIN)]
    return [_ratio(costs, name, base) for name, base in pairs if name in costs and base in costs]


def _ratio(costs: Mapping[str, Sequence[float]], name: str, base: str) -> Figure:
    ratios = [one / other for one, other in zip(costs[name], costs[base], strict=True)]
    middle, low, high = spread(ratios)
    # The standard error of a median, from the quartiles, as if the ratios were normally distributed.
    error = 1.2533 * (high - low) / 1.349 / math.sqrt(len(ratios))
    usual, _, _ = spread(costs[base])
    note = f"± {error:.3f}, quartiles {low:.3f} to {high:.3f}; {usual * 1e6:.0f} {usual * (middle - 1) * 1e6:+.1f} µs"
    return Figure(f"equal: CPU per call, {name} / {base}", middle, "×", BAR if name == JUDGED else None, note=note)


async def _measure(field: Sequence[Contender], rounds: int, targets: list[str]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {contender.name: [] for contender in field}
    async with AsyncExitStack() as stack:
        calls = {contender.name: await stack.enter_async_context(contender.open(targets, 0)) for contender in field}
        for number in range(WARMUPS + rounds):
            if number == WARMUPS:
                gc.collect()
            # There and back, so that a steady drift cancels out; everyone opens a round in turn.
            first = number % len(field)
            turned = [*list(calls)[first:], *list(calls)[:first]]
            taken = dict.fromkeys(calls, 0.0)
            for name in turned + turned[::-1]:
                taken[name] += await _block(calls[name]) / 2
            if number >= WARMUPS:
                for name, seconds in taken.items():
                    found[name].append(seconds)
    return found


async def _block(call: Call) -> float:
    async def some() -> None:
        for _ in range(CALLS // CONCURRENT):
            await call(REQUEST, timeout=TIMEOUT)

    started = time.process_time()
    await asyncio.gather(*(some() for _ in range(CONCURRENT)))
    return (time.process_time() - started) / CALLS
