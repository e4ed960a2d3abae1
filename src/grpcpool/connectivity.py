"""Connectivity in grpc's own terms: numbers, and where to read them cheaply."""

from __future__ import annotations

from typing import Any

import grpc

from .core.connectivity import Connectivity
from .core.lookout import Check

__all__ = ["IDLE", "connectivity_of", "private_check"]

# grpc numbers its states, and keeps the number first in the value of its public enum.
IDLE: int = grpc.ChannelConnectivity.IDLE.value[0]
_BY_NUMBER = {state.value[0]: Connectivity[state.name] for state in grpc.ChannelConnectivity}


def connectivity_of(number: int) -> Connectivity:
    """Return the connectivity state that grpc numbers so."""
    return _BY_NUMBER[number]


def private_check(channel: Any) -> Check | None:
    """Return the function beneath a channel's layers that tells its state (in less than 1 µs), or None.

    It is not public. Each layer, an interceptor's or grpc's own, keeps what it wraps in the attribute `_channel`.
    """
    inner = channel
    while (inner := getattr(inner, "_channel", None)) is not None:
        check: Check | None = getattr(inner, "check_connectivity_state", None)
        if callable(check):
            return check
    return None
