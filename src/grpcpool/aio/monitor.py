"""The one timer of an aio pool: looks at connections, keeps appointments."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

from ..core.pace import Pace

__all__ = ["SLOW", "Monitor"]

# Between two looks when nothing happens, in seconds: a lost connection is seen within a tenth of a second, also on a
# busy loop.
SLOW = 0.05
# The same for a large pool.
SLOWEST = 0.095
# And for a large pool in which no RPC is in flight: nobody is waiting to hear of it.
UNUSED = 0.25


class Monitor:
    """Calls `look` of an object at a varying pace, for as long as the object lives.

    A timer rather than a task: a loop that ends has nothing to cancel, to wait for or to complain about.

    Arguments:
        owner: held weakly, so that a pool that nobody closes can be collected.
        look: called with the owner; returns whether there was news, and the seconds to the next appointment or None.
        on_error: called with the owner and what `look` raised.
    """

    def __init__(
        self,
        owner: object,
        look: Callable[[Any], tuple[bool, float | None]],
        on_error: Callable[[Any, BaseException], object],
    ) -> None:
        self._owner = weakref.ref(owner)
        self._look = look
        self._on_error = on_error
        self._pace = Pace(SLOW)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.Handle | None = None
        self._soon = False

    def watch_over(self, members: int, in_use: bool) -> None:
        """Suit the pace to the number of members, and to whether anybody needs them."""
        self._pace.suit(members, least=SLOW, most=SLOWEST if in_use else UNUSED)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to look, on this loop; harmless if it has begun."""
        if self._loop is None:
            self._loop = loop
            self._handle = loop.call_soon(self._run)
            self._soon = True

    def ring(self) -> None:
        """Have a look now, and look often for a while. On the loop only."""
        self._pace.quicken()
        # A timer is brought forward; a look that is next on the loop's list already is not put at its end again.
        if self._handle is not None and self._loop is not None and not self._soon:
            self._handle.cancel()
            self._handle = self._loop.call_soon(self._run)
            self._soon = True

    def stop(self) -> None:
        """Look no more."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop = None

    def _run(self) -> None:
        self._handle = None
        self._soon = False
        owner = self._owner()
        if owner is None:
            return
        news, appointment = False, None
        try:
            news, appointment = self._look(owner)
        except Exception as error:
            self._on_error(owner, error)
        finally:
            # Whatever happened, upkeep goes on; unless what was seen led to the end of the pool, and so of this.
            if self._loop is not None:
                self._handle = self._loop.call_later(self._pace.next(news, appointment), self._run)
