"""The sync half of a soak."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import grpcpool
from grpcpool.testing import ECHO

from .ledger import DEADLINE, ELASTIC, HEDGED, POOL, UNARY, Ledger, held, metadata

__all__ = ["Room"]

PAUSE = 0.01
FORK_EVERY, FORK_CALLS, FORK_LIMIT = 3.0, 5, 60.0
SETTLE = 30.0


class Room:
    """Two pools, and everything that is done with them at once."""

    def __init__(self, targets: list[str], ledger: Ledger, seed: int) -> None:
        self._ledger = ledger
        self._seed = seed
        self._ports = {int(target.rpartition(":")[2]) for target in targets}
        self.pool = grpcpool.insecure_channel(targets, **POOL, seed=seed)
        self.elastic = grpcpool.insecure_channel(targets, **ELASTIC, seed=seed + 1)
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def run(self) -> None:
        """Begin."""
        self._over.clear()
        work: list[tuple[str, Callable[[random.Random], object], float]] = [
            *[("idempotent", self._idempotent, PAUSE)] * 4,
            *[("burst", self._burst, PAUSE)] * 6,
            *[("stream", self._stream, PAUSE)] * 2,
            ("hedged", self._hedged, PAUSE),
            ("client stream", self._client_stream, PAUSE),
            ("bidi", self._bidi, PAUSE),
            ("abandoned", self._abandoned, 0.1),
            ("deadline", self._deadline, 0.1),
            ("cancelled", self._cancelled, 0.1),
            ("refused", self._refused, PAUSE),
            ("resize", self._resize, 0.5),
            ("fork", self._fork, FORK_EVERY),
        ]
        self._threads = [
            threading.Thread(target=self._repeat, args=(number, *each)) for number, each in enumerate(work)
        ]
        for thread in self._threads:
            thread.start()

    def _repeat(self, number: int, kind: str, step: Callable[[random.Random], object], pause: float) -> None:
        chance = random.Random(self._seed * 100 + number)
        while not self._over.wait(pause * chance.uniform(0.5, 1.5)):
            try:
                step(chance)
            except Exception as error:
                self._ledger.ended(kind, error)
            else:
                self._ledger.ended(kind)

    def calm(self) -> dict[str, Any]:
        """End all that, wait until it is over, and return what is held then."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._threads = []
        started = time.monotonic()
        while not settled((self.pool, self.elastic)) and time.monotonic() - started < SETTLE:
            # Members that are out want to be tried.
            for pool in (self.pool, self.elastic):
                pool.unary_unary(UNARY)(b"x", timeout=DEADLINE, wait_for_ready=True)
            held(self._ports)
            time.sleep(0.1)
        # What grpc has to clear up.
        time.sleep(1.0)
        return {"held": held(self._ports), **report((self.pool, self.elastic))}

    def close(self) -> dict[str, float]:
        """Close both pools, and return what is held then."""
        self.pool.close()
        self.elastic.close()
        time.sleep(0.5)
        return held(self._ports)

    # --- what is done

    def _idempotent(self, chance: random.Random) -> None:
        wishes = metadata(delay=chance.choice((0, 0.002, 0.01)))
        assert self.pool.unary_unary(UNARY)(b"x", timeout=DEADLINE, metadata=wishes) == b"x"

    def _burst(self, chance: random.Random) -> None:
        # All at once for two seconds of ten.
        if time.monotonic() % 10 > 2 and chance.random() < 0.9:
            return
        assert self.elastic.unary_unary(UNARY)(b"x", timeout=DEADLINE, metadata=metadata(delay=0.05)) == b"x"

    def _stream(self, chance: random.Random) -> None:
        wishes = metadata(count=5, gap=0.05)
        stream = self.pool.unary_stream(f"{ECHO}ServerStream")(b"x", timeout=DEADLINE, metadata=wishes)
        assert list(stream) == [b"x"] * 5

    def _hedged(self, chance: random.Random) -> None:
        assert self.pool.unary_unary(HEDGED)(b"x", timeout=DEADLINE, metadata=metadata(delay=0.005)) == b"x"

    def _client_stream(self, chance: random.Random) -> None:
        method = self.pool.stream_unary(f"{ECHO}ClientStream")
        assert method(iter([b"x"] * 3), timeout=DEADLINE) == b"xxx"

    def _bidi(self, chance: random.Random) -> None:
        assert list(self.pool.stream_stream(f"{ECHO}Bidi")(iter([b"x"] * 3), timeout=DEADLINE)) == [b"x"] * 3

    def _abandoned(self, chance: random.Random) -> None:
        wishes = metadata(count=10000, gap=0.05)
        stream = self.pool.unary_stream(f"{ECHO}ServerStream")(b"x", metadata=wishes)
        if chance.random() < 0.7:
            next(stream)

    def _deadline(self, chance: random.Random) -> None:
        self.pool.unary_unary(UNARY)(b"x", timeout=0.05, metadata=metadata(delay=1.0))
        raise AssertionError("the deadline was not applied")

    def _cancelled(self, chance: random.Random) -> None:
        call = self.pool.unary_unary(UNARY).future(b"x", metadata=metadata(delay=1.0))
        time.sleep(chance.choice((0.0, 0.01)))
        call.cancel()
        call.result()

    def _refused(self, chance: random.Random) -> None:
        self.pool.unary_unary(UNARY)(b"x", timeout=DEADLINE, metadata=metadata(code="INVALID_ARGUMENT"))
        raise AssertionError("it was not refused")

    def _resize(self, chance: random.Random) -> None:
        self.pool.resize(chance.randint(4, 12))

    def _fork(self, chance: random.Random) -> None:
        child = os.fork()
        if not child:
            self._be_child()
        ends = time.monotonic() + FORK_LIMIT
        while True:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > ends:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise AssertionError("a child hung")
            time.sleep(0.02)
        assert os.waitstatus_to_exitcode(status) == 0, "a child failed; what it said is above"

    def _be_child(self) -> None:
        try:
            for pool in (self.pool, self.elastic):
                for _ in range(FORK_CALLS):
                    assert pool.unary_unary(UNARY)(b"x", timeout=DEADLINE, wait_for_ready=True) == b"x"
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)


def settled(pools: tuple[Any, ...]) -> bool:
    """Say whether nothing runs, and all members are there."""
    found = [pool.stats() for pool in pools]
    return all(
        stats.in_flight == 0 and len(stats.members) == stats.size and all(m.state == "ready" for m in stats.members)
        for stats in found
    )


def report(pools: tuple[Any, ...]) -> dict[str, Any]:
    """Return what the pools say of themselves, in sum."""
    found = [pool.stats() for pool in pools]
    fields = "in_flight waiting calls retries hedges retries_refused recycled grown shrunk drained ejections"
    fields += " connect_failures maintenance_errors listener_errors size"
    summed = {field: sum(getattr(stats, field) for stats in found) for field in fields.split()}
    return {"stats": summed, "settled": settled(pools)}
