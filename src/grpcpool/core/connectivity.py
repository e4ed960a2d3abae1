"""Connectivity states, by grpc's names, without grpc."""

from __future__ import annotations

import enum
from collections.abc import Iterable

__all__ = ["Connectivity", "aggregate"]


class Connectivity(enum.Enum):
    """The states of a channel; the names are those of ``grpc.ChannelConnectivity``."""

    IDLE = "idle"
    CONNECTING = "connecting"
    READY = "ready"
    TRANSIENT_FAILURE = "transient failure"
    SHUTDOWN = "shutdown"


def aggregate(states: Iterable[Connectivity]) -> Connectivity:
    """Return the state of a whole pool: that of its best member (READY, then CONNECTING, then TRANSIENT_FAILURE).

    A member that has failed counts as TRANSIENT_FAILURE until it is READY again, also while it tries once more: code
    that waits for a channel to become usable or to fail must get to see the failure (as in gRFC A62).
    """
    seen = set(states)
    for state in (Connectivity.READY, Connectivity.CONNECTING, Connectivity.TRANSIENT_FAILURE):
        if state in seen:
            return state
    return Connectivity.IDLE
