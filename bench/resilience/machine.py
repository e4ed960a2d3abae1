"""How much of the machine was in use, and how much of it its host took away."""

from __future__ import annotations

import psutil

__all__ = ["Machine"]


class Machine:
    """From its making to the call of `shares`. All processors, all processes."""

    def __init__(self) -> None:
        self._before = psutil.cpu_times()

    def shares(self) -> tuple[float, float]:
        """Return how much was busy and how much stolen, each as a share of all there is."""
        before, now = self._before, psutil.cpu_times()
        spent = {name: getattr(now, name) - getattr(before, name) for name in now._fields}
        # Both are part of `user` and `nice` already.
        spent.pop("guest", None)
        spent.pop("guest_nice", None)
        total = sum(spent.values()) or 1.0
        idle = spent["idle"] + spent.get("iowait", 0.0)
        stolen = spent.get("steal", 0.0)
        return (total - idle - stolen) / total, stolen / total
