"""The eyes and the clock of an aio pool: one waiting task for each member, one timer for the machine.

grpc.aio tells of a change of connectivity by waking whoever waits for it, one channel at a time; hence a task for each
member. It costs nothing while nothing changes, and no thread ever.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

import grpc

from ..core.member import Member

__all__ = ["Timer", "watch"]

# After grpc's own way of waiting failed, which it is not known to do: not at once again.
PAUSE = 0.1


def watch(
    loop: asyncio.AbstractEventLoop,
    owner: object,
    member: Member,
    observed: Callable[[Any, Member, grpc.ChannelConnectivity], object],
    on_error: Callable[[Any, BaseException], object],
) -> asyncio.Task[None]:
    """Return a task that calls `observed` with the channel's state now and after each change, until it is cancelled.

    Arguments:
        owner: handed to the callbacks.
        member: whose channel is watched, handed to the callbacks. Both are held weakly, so that a pool that nobody
            closes can be collected.
    """
    task = loop.create_task(_watch(weakref.ref(owner), weakref.ref(member), member.channel, observed, on_error))
    # A program may stop its loop for good without closing the pool or cancelling its tasks. asyncio would complain
    # about this one when it is collected, and there is nothing to complain about.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return task


async def _watch(
    owner: weakref.ref[Any],
    watched: weakref.ref[Member],
    channel: grpc.aio.Channel,
    observed: Callable[[Any, Member, grpc.ChannelConnectivity], object],
    on_error: Callable[[Any, BaseException], object],
) -> None:
    while True:
        try:
            state = channel.get_state()
            alive, member = owner(), watched()
            if alive is None or member is None or member.retired:
                return
            observed(alive, member, state)
            # Not to be kept alive while this task waits.
            del alive, member
            await channel.wait_for_state_change(state)
        except grpc.aio.UsageError:
            # The channel was closed.
            return
        except Exception as error:
            alive = owner()
            if alive is None:
                return
            on_error(alive, error)
            del alive
            await asyncio.sleep(PAUSE)


class Timer:
    """Calls `due` of an object at a given time, for as long as the object lives. One appointment at a time."""

    def __init__(self, owner: object, due: Callable[[Any], object]) -> None:
        self._owner = weakref.ref(owner)
        self._due = due
        self._when: float | None = None
        self._handle: asyncio.TimerHandle | None = None

    def set(self, loop: asyncio.AbstractEventLoop, when: float | None, now: float) -> None:
        """Make, move or cancel the appointment; `when` and `now` are times on the pool's clock."""
        if when == self._when:
            return
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._when = when
        if when is not None:
            self._handle = loop.call_later(max(when - now, 0), self._ring)

    def _ring(self) -> None:
        self._when = self._handle = None
        owner = self._owner()
        if owner is not None:
            self._due(owner)
