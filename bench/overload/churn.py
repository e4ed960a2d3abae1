"""What plain channels take that are made, used for one call and closed, several at a time; `recycle` has the rest."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .calls import unary, unary_aio
from .clients import Client, opened, opened_aio
from .watch import memory, native_threads

__all__ = ["case"]

PLAIN = Client("plain channel")
AT_ONCE = 8


def case(room: str, target: str, count: int, seconds: float) -> dict[str, Any]:
    """Make and close so many channels, for as many seconds as it takes."""
    return _sync(target, count) if room == "sync" else asyncio.run(_aio(target, count))


def _sync(target: str, count: int) -> dict[str, Any]:
    samples: list[tuple[int, float]] = []

    def once(_: int) -> None:
        with opened(PLAIN, target) as channel:
            unary(channel)()
        samples.append((len(samples) + 1, memory()))

    with opened(PLAIN, target) as first, ThreadPoolExecutor(AT_ONCE) as executor:
        unary(first)()
        before = native_threads()
        # Consumed, so that what goes wrong is raised.
        list(executor.map(once, range(count)))
        return {"memory": samples, "before": before, "after": native_threads()}


async def _aio(target: str, count: int) -> dict[str, Any]:
    samples: list[tuple[int, float]] = []

    async def some(number: int) -> None:
        for _ in range(number, count, AT_ONCE):
            async with opened_aio(PLAIN, target) as channel:
                await unary_aio(channel)()
            samples.append((len(samples) + 1, memory()))

    async with opened_aio(PLAIN, target) as first:
        await unary_aio(first)()
        before = native_threads()
        await asyncio.gather(*(some(number) for number in range(AT_ONCE)))
        return {"memory": samples, "before": before, "after": native_threads()}
