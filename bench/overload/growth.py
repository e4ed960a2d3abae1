"""How much memory a process takes while channels come and go."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from .watch import memory

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Growth", "per_thousand"]

# Share of the channels whose memory does not count: caches and arenas fill up once.
WARM_UP = 1 / 3
# Share of the rest, at either end, of which the median is taken: single looks see calls that happen to be under way.
END = 1 / 4


class Growth:
    """Looks at the memory of this process several times a second, in a thread. A context manager.

    Arguments:
        closed: returns how many channels have been closed by now.

    Attributes:
        samples: how many were, and the memory in MiB.
    """

    def __init__(self, closed: Callable[[], int], interval: float = 0.2) -> None:
        self.samples: list[tuple[int, float]] = []
        self._closed = closed
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(self._interval):
            self.samples.append((self._closed(), memory()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()


def per_thousand(samples: list[tuple[int, float]]) -> float:
    """Return by how many MiB the memory grows for each thousand channels closed, the first ones left out."""
    most = max(closed for closed, _ in samples)
    late = [sample for sample in samples if sample[0] >= most * WARM_UP]
    count = max(int(len(late) * END), 1)
    (from_, before), (to, after) = (
        (statistics.median(closed for closed, _ in part), statistics.median(held for _, held in part))
        for part in (late[:count], late[-count:])
    )
    return 1000 * (after - before) / max(to - from_, 1)
