"""Waiting for what no event tells, such as the operating system's view."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psutil

LIMIT = 60.0


def until(condition: Callable[[], object], limit: float = LIMIT) -> float:
    """Look until `condition` holds, and return how many seconds that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit, f"not within {limit:g} s"
        time.sleep(0.002)
    return time.monotonic() - started


def connections(*ports: int) -> int:
    """Count this process's established TCP connections to these ports, as the operating system sees them."""
    found = psutil.Process().net_connections(kind="tcp")
    return sum(c.status == psutil.CONN_ESTABLISHED and bool(c.raddr) and c.raddr.port in ports for c in found)


def pool_threads() -> list[str]:
    """Name the threads that belong to pools."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("grpcpool")]
