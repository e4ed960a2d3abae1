"""What several files of tests use: threads that start together; meters, strategies and listeners that keep notes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

import pytest

from grpcpool import events
from grpcpool.core.generation import GenerationBuilder
from grpcpool.keys import Key
from grpcpool.strategies import Clock
from grpcpool.testing import ECHO, FakeClock

UNARY = f"{ECHO}Unary"
QUICK: dict[str, Any] = {"size": 2, "backoff_min": 0.1, "backoff_max": 0.2, "connect_timeout": 5.0}

E = TypeVar("E", bound=events.Event)


def in_threads(count: int, work: Any) -> None:
    """Run `work` in `count` threads that start together."""
    barrier = threading.Barrier(count)
    failures: list[BaseException] = []

    def run() -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def builder(strategy: Any, problems: list[str] | None = None) -> GenerationBuilder:
    """Return what makes generations with this strategy; what that does wrong goes to `problems`, or fails the test."""

    def nobody() -> NoReturn:
        raise LookupError

    return GenerationBuilder(
        strategy,
        rng=random.Random(0),
        clock=FakeClock(),
        not_connected=nobody,
        no_channel=nobody,
        on_error=pytest.fail if problems is None else problems.append,
    )


class Diary:
    """A meter that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def started(self, now: float, timed: bool) -> None:
        self.told.append(("started", now, timed))

    def answered(self, now: float, latency: float | None) -> None:
        self.told.append(("answered", now, latency))

    def failed(self, now: float, latency: float | None) -> None:
        self.told.append(("failed", now, latency))

    def dropped(self, now: float, latency: float | None) -> None:
        self.told.append(("dropped", now, latency))

    def kinds(self) -> list[str]:
        return [kind for kind, *_ in self.told]


class Keyed:
    """A strategy that routes by key: by none, in fact, but it notes them."""

    keyed = True

    def __init__(self) -> None:
        self.keys: list[Key | None] = []

    def build(self, members: Sequence[Any], *, rng: random.Random, clock: Clock) -> Any:
        def pick(key: Key | None) -> Any:
            self.keys.append(key)
            return members[0]

        return pick


class Recorder:
    """A listener that keeps what it is told, and can be waited for."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []
        self.times: list[float] = []
        self._told = threading.Condition()

    def __call__(self, event: events.Event) -> None:
        with self._told:
            self.events.append(event)
            self.times.append(time.monotonic())
            self._told.notify_all()

    def of(self, kind: type[E], **fields: object) -> list[E]:
        wanted = fields.items()
        found = [event for event in self.events if isinstance(event, kind)]
        return [event for event in found if all(getattr(event, field) == value for field, value in wanted)]

    def wait(self, kind: type[E], count: int = 1, timeout: float = 15.0, **fields: object) -> list[E]:
        """Return the events of this kind as soon as there are `count` of them."""
        with self._told:
            came = self._told.wait_for(lambda: len(self.of(kind, **fields)) >= count, timeout)
        assert came, f"{len(self.of(kind, **fields))} of {count} {kind.__name__}: {self.events}"
        return self.of(kind, **fields)

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]
