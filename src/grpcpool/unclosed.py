"""Pools that are collected without having been closed."""

from __future__ import annotations

import sys
import warnings

from .core.engine import Engine

__all__ = ["warn_if_unclosed"]


def warn_if_unclosed(engine: Engine | None, label: str) -> None:
    """Warn of a pool that is collected while it is open. To be called by a destructor.

    Arguments:
        engine: the pool's; None if it never came to have one.
    """
    # When the interpreter ends everything goes, and nobody need be told.
    if engine is None or sys.is_finalizing():
        return
    machine = engine.machine
    if machine.opened is not None and not machine.closed:
        warnings.warn(
            f"pool {label!r} was collected while it was open: close() it, or use it in a with statement",
            ResourceWarning,
            stacklevel=2,
        )
