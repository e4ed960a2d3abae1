"""Who is a member when."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import cycle

from .scenario import Resize, Scenario

__all__ = ["Change", "changes"]

# A time, and the numbers of the backends that are members from then on.
Change = tuple[float, tuple[int, ...]]


def changes(scenario: Scenario) -> list[Change]:
    """Return who is a member at first, and every change until the last call arrives."""
    if scenario.resize is not None:
        return list(_steps(scenario.resize, scenario.size, scenario.duration))
    groups = [group for group in scenario.backends for _ in range(group.count)]
    times = {0.0}
    for group in scenario.backends:
        times |= {time for time in (group.joins, group.leaves) if time is not None and time < scenario.duration}
    return [
        (
            time,
            tuple(
                number
                for number, group in enumerate(groups)
                if group.joins <= time and (group.leaves is None or time < group.leaves)
            ),
        )
        for time in sorted(times)
    ]


def _steps(resize: Resize, ring: int, duration: float) -> Iterator[Change]:
    tail = 0
    front = 0
    for step, size in zip(range(math.ceil(duration / resize.every)), cycle(resize.sizes)):
        front = max(front, tail + size)
        tail = front - size
        yield step * resize.every, tuple(sorted(place % ring for place in range(tail, front)))
