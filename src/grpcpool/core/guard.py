"""Between the pool and the meters of strategies that are not its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from ..strategies.base import Meter

__all__ = ["SILENT", "Guarded"]


class Silent:
    """A meter that notes nothing."""

    def started(self, now: float, timed: bool) -> None:
        """Do nothing."""

    def answered(self, now: float, latency: float | None) -> None:
        """Do nothing."""

    failed = dropped = answered


SILENT: Meter = Silent()


class Guarded:
    """Tells a meter what it is told, until it raises; then says so once, and tells it no more.

    An RPC must not fail because somebody measures it.
    """

    def __init__(self, meter: Meter, on_error: Callable[[str], object]) -> None:
        self._meter = meter
        # Emptied by one step, so that one thread of several says it.
        self._unsaid = [on_error]

    def started(self, now: float, timed: bool) -> None:
        """Pass it on."""
        try:
            self._meter.started(now, timed)
        except Exception as error:
            self._give_up(error)

    def answered(self, now: float, latency: float | None) -> None:
        """Pass it on."""
        try:
            self._meter.answered(now, latency)
        except Exception as error:
            self._give_up(error)

    def failed(self, now: float, latency: float | None) -> None:
        """Pass it on."""
        try:
            self._meter.failed(now, latency)
        except Exception as error:
            self._give_up(error)

    def dropped(self, now: float, latency: float | None) -> None:
        """Pass it on."""
        try:
            self._meter.dropped(now, latency)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._meter = SILENT
        with suppress(IndexError):
            self._unsaid.pop()(f"a meter raised {type(error).__name__}, and is not told anything more")
