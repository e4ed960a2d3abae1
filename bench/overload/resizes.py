"""Takes down when a pool changed its size."""

from __future__ import annotations

import time
from typing import Any

from grpcpool import events

__all__ = ["UNSAMPLED", "Resizes"]

# A listener is told of every pick otherwise, and that is not what is to be measured.
UNSAMPLED = {"telemetry_sample_rate": 0}


class Resizes:
    """A listener of a pool.

    Attributes:
        found: the seconds after `start`, and the size from then on.
    """

    def __init__(self) -> None:
        self.found: list[tuple[float, int]] = []
        self.start()

    def start(self) -> None:
        """Forget what was, and begin to count."""
        self._epoch = time.monotonic()
        self.found = []

    def __call__(self, event: Any) -> None:
        if isinstance(event, events.Scaling):
            self.found.append((time.monotonic() - self._epoch, event.new_size))
