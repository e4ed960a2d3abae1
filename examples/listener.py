"""What a pool tells while a server dies and comes back: ``python examples/listener.py``."""

from __future__ import annotations

import threading
import time

import grpcpool
from grpcpool import events
from grpcpool.testing import ServerProcess


class Story:
    """Prints every event with its time, and can be waited on."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._changed = threading.Condition()
        self._told: list[events.Event] = []

    def __call__(self, event: events.Event) -> None:
        print(f"{time.monotonic() - self._began:7.3f} {event}")
        with self._changed:
            self._told.append(event)
            self._changed.notify_all()

    def wait_for(self, kind: type[events.Event], count: int) -> None:
        with self._changed:
            enough = self._changed.wait_for(lambda: sum(isinstance(event, kind) for event in self._told) >= count, 15)
        if not enough:
            raise TimeoutError(f"fewer than {count} {kind.__name__} events")


def main() -> None:
    story = Story()
    with (
        ServerProcess() as server,
        grpcpool.insecure_channel(server.target, size=2, backoff_min=0.2, backoff_max=1, listeners=story) as pool,
    ):
        pool.wait_ready(min_ready=2)
        server.kill()
        story.wait_for(events.ConnectFailed, 2)
        server.start()
        story.wait_for(events.Connected, 4)


if __name__ == "__main__":
    main()
