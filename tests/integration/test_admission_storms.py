"""Thousands that come and go while every member is full."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from grpcpool.testing import ECHO, ServerProcess

from .flavours import UNJUDGED, Flavour
from .test_admission import fits_exactly
from .waiting import until

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("rpcs", [1_000, pytest.param(10_000, marks=pytest.mark.stress)])
def test_thousands_that_wait_in_vain_take_no_slot(flavour: Flavour, server: ServerProcess, rpcs: int) -> None:
    # Thousands of deadlines pass here: on a machine that is slow enough, the members' own among them.
    limits = {"max_concurrent_streams": 4, "max_waiting": 10_000}
    with flavour.insecure(server.target, size=2, **limits, **UNJUDGED) as pool:
        pool.wait_ready(min_ready=2)
        ends: dict[str, int] = {"served": 0, "timeout": 0, "cancelled": 0}
        storm = aio_storm if flavour.name == "aio" else sync_storm
        flavour.in_background(storm, pool.raw, ends, rpcs).result(200)
        assert sum(ends.values()) == rpcs
        assert min(ends["served"], ends["timeout"]) > rpcs / 100
        assert pool.stats().waiting == 0
        until(lambda: pool.stats().in_flight == 0)
        fits_exactly(pool, 8)


def sync_storm(channel: Any, ends: dict[str, int], rpcs: int) -> None:
    method = channel.unary_unary(f"{ECHO}Unary")

    def work(seed: int) -> list[str]:
        chance = random.Random(seed)
        return [attempt(chance) for _ in range(rpcs // 32 + (seed < rpcs % 32))]

    def attempt(chance: random.Random) -> str:
        try:
            # Those that are in time take long enough for others to wait.
            method(b"x", timeout=chance.uniform(0, 0.03), metadata=(("delay", "0.005"),))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            return "timeout"
        return "served"

    with ThreadPoolExecutor(32) as threads:
        for found in threads.map(work, range(32)):
            for end in found:
                ends[end] += 1


async def aio_storm(channel: Any, ends: dict[str, int], rpcs: int) -> None:
    method = channel.unary_unary(f"{ECHO}Unary")
    chance = random.Random(3)

    async def attempt() -> str:
        delay = (("delay", "0.005"),)
        match chance.randrange(4):
            case 0:
                call = method(b"x", timeout=60, metadata=delay)
            case 1:
                call = method(b"x", timeout=chance.uniform(0, 0.1), metadata=delay)
            case 2:
                call = method(b"x", metadata=delay)
                asyncio.get_running_loop().call_later(chance.uniform(0, 0.1), call.cancel)
            case _:
                call = method(b"x", metadata=delay)
                asyncio.get_running_loop().call_later(
                    chance.uniform(0, 0.1),
                    asyncio.current_task().cancel,  # type: ignore[union-attr]
                )
        try:
            await call
        except asyncio.CancelledError:
            return "cancelled"
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            return "timeout"
        return "served"

    for _ in range(rpcs // 500):
        for end in await asyncio.gather(*(attempt() for _ in range(500)), return_exceptions=True):
            ends["cancelled" if isinstance(end, asyncio.CancelledError) else end] += 1  # type: ignore[index]
