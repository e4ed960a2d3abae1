"""Checks of the arguments that both rooms' pools take."""

from __future__ import annotations

from typing import Any, cast

from .errors import ConfigError, ConfigTypeError

__all__ = ["checked_grace", "checked_min_ready", "count", "positive"]


def count(n: Any, *, field: str = "n", allowed: str = "an integer of 1 or more") -> int:
    """Return `n` if it is an integer."""
    # True is an int in Python, but as a number of members it is a slip.
    if isinstance(n, bool) or not isinstance(n, int):
        raise ConfigTypeError(field, repr(n), allowed)
    return n


def positive(n: Any) -> int:
    """Return `n` if it is an integer of 1 or more."""
    if count(n) < 1:
        raise ConfigError("n", repr(n), "an integer of 1 or more")
    return cast(int, n)


def checked_min_ready(min_ready: Any, size: int) -> None:
    """Refuse what can never be waited for."""
    allowed = f"an integer from 1 to {size}, the pool's size"
    if not 1 <= count(min_ready, field="min_ready", allowed=allowed) <= size:
        raise ConfigError("min_ready", repr(min_ready), allowed)


def checked_grace(grace: float | None) -> None:
    """Refuse a time to wait that is none."""
    if grace is not None and not grace >= 0:
        raise ConfigError("grace", repr(grace), "seconds, 0 or more, or None")
