"""The aio half of a soak: the same, in tasks, but for forks, after which grpc.aio does not work in the child."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpcpool
from grpcpool.testing import ECHO

from .ledger import DEADLINE, ELASTIC, HEDGED, POOL, UNARY, Ledger, held, metadata
from .room_sync import PAUSE, SETTLE, report, settled

__all__ = ["Room"]


class Room:
    """As `room_sync.Room`; the loop is in a thread of its own."""

    def __init__(self, targets: list[str], ledger: Ledger, seed: int) -> None:
        self._ledger = ledger
        self._seed = seed
        self._ports = {int(target.rpartition(":")[2]) for target in targets}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.complaints: list[str] = []
        self._loop.set_exception_handler(lambda _, context: self.complaints.append(repr(context)))
        self.pool = grpcpool.aio.insecure_channel(targets, **POOL, seed=seed)
        self.elastic = grpcpool.aio.insecure_channel(targets, **ELASTIC, seed=seed + 1)
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def run(self) -> None:
        """Begin."""
        self._await(self._begin())

    def calm(self) -> dict[str, Any]:
        """End all that, wait until it is over, and return what is held then."""
        return self._await(self._calm())

    def close(self) -> dict[str, float]:
        """Close both pools and the loop, and return what is held then."""
        self._await(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        return held(self._ports)

    def _await(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _begin(self) -> None:
        self._over.clear()
        work: list[tuple[str, Callable[[random.Random], Awaitable[object]], float]] = [
            *[("idempotent", self._idempotent, PAUSE)] * 8,
            *[("burst", self._burst, PAUSE)] * 12,
            *[("stream", self._stream, PAUSE)] * 4,
            ("hedged", self._hedged, PAUSE),
            ("client stream", self._client_stream, PAUSE),
            ("bidi", self._bidi, PAUSE),
            ("abandoned", self._abandoned, 0.1),
            ("deadline", self._deadline, 0.1),
            ("cancelled", self._cancelled, 0.1),
            ("refused", self._refused, PAUSE),
            ("resize", self._resize, 0.5),
        ]
        self._tasks = [
            asyncio.get_running_loop().create_task(self._repeat(number, *each)) for number, each in enumerate(work)
        ]

    async def _repeat(
        self, number: int, kind: str, step: Callable[[random.Random], Awaitable[object]], pause: float
    ) -> None:
        chance = random.Random(self._seed * 100 + number)
        while not self._over.is_set():
            await asyncio.sleep(pause * chance.uniform(0.5, 1.5))
            try:
                await step(chance)
            except (Exception, asyncio.CancelledError) as error:
                self._ledger.ended(kind, error)
            else:
                self._ledger.ended(kind)

    async def _calm(self) -> dict[str, Any]:
        self._over.set()
        await asyncio.gather(*self._tasks)
        self._tasks = []
        started = time.monotonic()
        while not settled((self.pool, self.elastic)) and time.monotonic() - started < SETTLE:
            for pool in (self.pool, self.elastic):
                await pool.unary_unary(UNARY)(b"x", timeout=DEADLINE, wait_for_ready=True)
            held(self._ports)
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.0)
        # Without this one.
        tasks = len(asyncio.all_tasks()) - 1
        return {
            "held": held(self._ports, tasks),
            **report((self.pool, self.elastic)),
            "complaints": list(self.complaints),
        }

    async def _close(self) -> None:
        await self.pool.close()
        await self.elastic.close()
        await asyncio.sleep(0.5)

    # --- what is done

    async def _idempotent(self, chance: random.Random) -> None:
        wishes = metadata(delay=chance.choice((0, 0.002, 0.01)))
        assert await self.pool.unary_unary(UNARY)(b"x", timeout=DEADLINE, metadata=wishes) == b"x"

    async def _burst(self, chance: random.Random) -> None:
        if time.monotonic() % 10 > 2 and chance.random() < 0.9:
            return
        assert await self.elastic.unary_unary(UNARY)(b"x", timeout=DEADLINE, metadata=metadata(delay=0.05)) == b"x"

    async def _stream(self, chance: random.Random) -> None:
        wishes = metadata(count=5, gap=0.05)
        stream = self.pool.unary_stream(f"{ECHO}ServerStream")(b"x", timeout=DEADLINE, metadata=wishes)
        assert [message async for message in stream] == [b"x"] * 5

    async def _hedged(self, chance: random.Random) -> None:
        assert await self.pool.unary_unary(HEDGED)(b"x", timeout=DEADLINE, metadata=metadata(delay=0.005)) == b"x"

    async def _client_stream(self, chance: random.Random) -> None:
        method = self.pool.stream_unary(f"{ECHO}ClientStream")
        assert await method(iter([b"x"] * 3), timeout=DEADLINE) == b"xxx"

    async def _bidi(self, chance: random.Random) -> None:
        stream = self.pool.stream_stream(f"{ECHO}Bidi")(iter([b"x"] * 3), timeout=DEADLINE)
        assert [message async for message in stream] == [b"x"] * 3

    async def _abandoned(self, chance: random.Random) -> None:
        wishes = metadata(count=10000, gap=0.05)
        stream = self.pool.unary_stream(f"{ECHO}ServerStream")(b"x", metadata=wishes)
        if chance.random() < 0.7:
            await stream.read()

    async def _deadline(self, chance: random.Random) -> None:
        await self.pool.unary_unary(UNARY)(b"x", timeout=0.05, metadata=metadata(delay=1.0))
        raise AssertionError("the deadline was not applied")

    async def _cancelled(self, chance: random.Random) -> None:
        call = self.pool.unary_unary(UNARY)(b"x", metadata=metadata(delay=1.0))
        await asyncio.sleep(chance.choice((0.0, 0.01)))
        call.cancel()
        await call

    async def _refused(self, chance: random.Random) -> None:
        await self.pool.unary_unary(UNARY)(b"x", timeout=DEADLINE, metadata=metadata(code="INVALID_ARGUMENT"))
        raise AssertionError("it was not refused")

    async def _resize(self, chance: random.Random) -> None:
        await self.pool.resize(chance.randint(4, 12))
