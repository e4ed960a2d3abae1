"""Runs one contender in one scenario, in a process of its own: fresh channels, and processor time that is its own."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any

from grpcpool.testing import Proxy

from ..fleet import Fleet
from .contenders import opened, opened_aio
from .load import Sample, drive, drive_aio
from .machine import Machine
from .scenario import SPECIAL, Run, Scenario, Stage
from .scenarios import SCENARIOS
from .servers import COUNT, backends

__all__ = ["run"]

# From when everything is connected to the first call.
SETTLE = 0.1


def run(scenario: str, contender: str, room: str, seconds: float) -> Run:
    """Return what came of it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_case, scenario, contender, room, seconds).result()


def _case(name: str, contender: str, room: str, seconds: float) -> Run:
    # What the pool logs about servers that go away is part of the scenario.
    logging.getLogger("grpcpool").addHandler(logging.NullHandler())
    scenario = SCENARIOS[name]
    with ExitStack() as stack:
        fleet = stack.enter_context(backends(scenario.work, scenario.ports))
        targets = fleet.targets
        proxy = None
        if scenario.proxied:
            proxy = stack.enter_context(Proxy(targets[SPECIAL]))
            targets[SPECIAL] = proxy.target
        case = _Case(scenario, fleet, proxy, seconds)
        found = case.sync(contender, targets) if room == "sync" else asyncio.run(case.aio(contender, targets))
    return Run(room, contender, **found)


class _Case:
    def __init__(self, scenario: Scenario, fleet: Fleet, proxy: Proxy | None, seconds: float) -> None:
        self._scenario = scenario
        self._fleet = fleet
        self._proxy = proxy
        self._seconds = seconds
        self._shots = scenario.shots(seconds)

    def sync(self, contender: str, targets: list[str]) -> dict[str, Any]:
        with opened(contender, targets) as caller:
            self._begin()
            samples = drive(self._shots, caller.call, self._scenario.workers, self._epoch)
            return self._end(samples, caller.pool)

    async def aio(self, contender: str, targets: list[str]) -> dict[str, Any]:
        async with opened_aio(contender, targets) as caller:
            self._begin()
            samples = await drive_aio(self._shots, caller.call, self._epoch)
            return self._end(samples, caller.pool)

    def _begin(self) -> None:
        gc.collect()
        self._epoch = time.monotonic() + self._scenario.warm_up + SETTLE
        self._stage = Stage(self._fleet.backends, self._proxy, self._epoch)
        self._machine = Machine()
        self._cpu, self._begun = time.process_time(), time.monotonic()
        self._disturbing = threading.Thread(target=self._scenario.disturb, args=(self._stage, self._seconds))
        self._disturbing.start()

    def _end(self, samples: list[Sample], pool: Any) -> dict[str, Any]:
        busy, stolen = self._machine.shares()
        cpu = (time.process_time() - self._cpu) / (time.monotonic() - self._begun)
        stats = {} if pool is None else self._stats(pool.stats())
        self._disturbing.join()
        counted = self._scenario.counted
        return {
            "samples": [sample for sample in samples if sample.at >= 0],
            "marks": self._stage.marks,
            "cpu": cpu,
            "busy": busy,
            "stolen": stolen,
            "reached": sum(backend.ask(COUNT) for backend in self._fleet.backends) if counted else None,
            "sent": len(samples),
            "stats": stats,
        }

    def _stats(self, stats: Any) -> dict[str, Any]:
        found = dataclasses.asdict(stats)
        now = self._stage.now()
        found["decisions"] = [
            {"at": now - decision.ago, "what": decision.what, "reason": decision.reason} for decision in stats.decisions
        ]
        return found
