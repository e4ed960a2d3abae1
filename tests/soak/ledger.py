"""What is done in a soak, how each of it may end, and how it did; and what the process holds."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from typing import Any

import grpc
import psutil

import grpcpool
from grpcpool.testing import ECHO

__all__ = ["DEADLINE", "ELASTIC", "HEDGED", "KINDS", "POOL", "UNARY", "Ledger", "held", "metadata"]

UNARY = f"{ECHO}Unary"
# Called with one message, and answered with one.
HEDGED = f"{ECHO}ClientStream"
# Long enough for any misfortune to be over; whatever does not end within it hangs.
DEADLINE = 20.0
# A server that goes down takes what runs there along, and one in its mood says no: that is UNAVAILABLE, and nobody may
# send again what is not idempotent.
GONE = "UNAVAILABLE"
# A server of grpcio's that stops gracefully drops calls that it has received, but not begun yet: CANCELLED, and no
# other text. Calls that are cancelled here end otherwise.
DROPPED = "CANCELLED by the server"
# What grpc.aio makes of a message that is still to be sent when the call has ended already, with a plain channel too.
NOT_SENT = "INTERNAL, a message could not be sent"
# But all that must remain rare: the pool is to see it, and to go elsewhere.
RARE = 0.1
LOST = {GONE, DROPPED}
# How each may end, apart from well. Whatever else happens is an error of ours. Decided before anything is run.
KINDS: dict[str, set[str]] = {
    # Sent again when it fails: nothing that happens to servers may be seen.
    "idempotent": set(),
    "burst": set(),
    "fork": set(),
    # Sent twice at most, and of four servers two may fail at the same moment.
    "hedged": LOST,
    "stream": LOST,
    "client stream": {*LOST, NOT_SENT},
    "bidi": {*LOST, NOT_SENT},
    "abandoned": LOST,
    # No time to be sent again.
    "deadline": {"DEADLINE_EXCEEDED", *LOST},
    # Futures of the sync pool are not.
    "cancelled": {"CANCELLED", *LOST},
    # What a server's application says is final.
    "refused": {"INVALID_ARGUMENT"},
    # "Already scaling", or new members that could not connect because their server was just down.
    "resize": {"ScalingError"},
}

_COMMON: dict[str, Any] = {
    "idempotent": [UNARY, HEDGED],
    "retry": {UNARY: grpcpool.Retry(attempts=5, backoff_min=0.02)},
    "hedge_after": {HEDGED: 0.3},
    "backoff_min": 0.1,
    "backoff_max": 1.0,
    "ejection_min": 1.0,
    "ejection_max": 5.0,
    "slow_start": 1.0,
}
POOL = {"size": 8, "strategy": "adaptive", "max_lifetime": 5.0, "drain_timeout": DEADLINE, **_COMMON}
ELASTIC = {
    "min_size": 4,
    "max_size": 12,
    "max_concurrent_streams": 20,
    "target_in_flight": (0.5, 3.0),
    "scale_down_interval": 1.0,
    "max_idle": 3.0,
    "strategy": "least_in_flight",
    **_COMMON,
}


def metadata(**wishes: object) -> tuple[tuple[str, str], ...]:
    """Return what is asked of a server."""
    return tuple((name, str(value)) for name, value in wishes.items())


class Ledger:
    """Counts how everything ended. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        self._unexpected: list[str] = []

    def ended(self, kind: str, error: BaseException | None = None) -> None:
        """Take down how something of this kind ended; None: well."""
        end = "OK" if error is None else _name(error)
        with self._lock:
            self._ends[kind][end] += 1
            if end != "OK" and end not in KINDS[kind]:
                at = time.strftime("%H:%M:%S")
                self._unexpected.append(f"{at} {kind}: {error!r}"[:400])

    def summary(self) -> dict[str, Any]:
        """Return the counts, and what must not have happened."""
        with self._lock:
            unexpected = list(self._unexpected)
            for kind, ends in self._ends.items():
                lost = ends[GONE] + ends[DROPPED] + ends[NOT_SENT]
                if lost > max(RARE * sum(ends.values()), 5):
                    unexpected.append(f"{kind}: {lost} of {sum(ends.values())} were lost with a server")
            return {"ends": {kind: dict(ends) for kind, ends in self._ends.items()}, "unexpected": unexpected}


def _name(error: BaseException) -> str:
    if type(error).__name__.endswith("CancelledError"):
        return "CANCELLED"
    if not isinstance(error, grpc.RpcError):
        return type(error).__name__
    call: Any = error
    code, details = call.code(), call.details()
    if code is grpc.StatusCode.CANCELLED and details == "CANCELLED":
        return DROPPED
    if code is grpc.StatusCode.INTERNAL and "execute_batch" in str(call.debug_error_string()):
        return NOT_SENT
    name: str = code.name
    return name


def held(ports: set[int], tasks: int = 0) -> dict[str, float]:
    """Return what this process holds at this moment."""
    gc.collect()
    process = psutil.Process()
    sockets = sum(bool(c.raddr) and c.raddr.port in ports for c in process.net_connections("tcp"))
    return {
        "sockets": sockets,
        "descriptors": process.num_fds(),
        "threads": threading.active_count(),
        "native threads": process.num_threads(),
        "tasks": tasks,
        "children": len(process.children()),
        "RSS, MiB": round(process.memory_info().rss / 2**20, 2),
        "pid": os.getpid(),
    }
