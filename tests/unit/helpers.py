"""What several files of tests use: threads that start together, and a listener that can be waited for."""

from __future__ import annotations

import threading
import time
from typing import Any, TypeVar

from grpcpool import events
from grpcpool.testing import ECHO

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
