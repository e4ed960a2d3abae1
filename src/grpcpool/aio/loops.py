"""Event loops: which one a pool belongs to, and what is said to those who use it elsewhere."""

from __future__ import annotations

import asyncio

from .errors import AioLost, WrongLoop

__all__ = ["another_loop", "loop_to_be", "lost"]


def loop_to_be(label: str) -> asyncio.AbstractEventLoop:
    """Return the loop that will run here, though it does not run yet.

    Arguments:
        label: what the pool is called.

    Raises:
        WrongLoop: there is none.
    """
    try:
        return asyncio.get_event_loop_policy().get_event_loop()
    except (RuntimeError, DeprecationWarning):
        # None was set, and newer versions of Python no longer make one for the asking.
        raise WrongLoop(
            f"pool {label!r} has no event loop: use it for the first time from within a coroutine"
        ) from None


def another_loop(label: str, loop: asyncio.AbstractEventLoop, running: asyncio.AbstractEventLoop) -> WrongLoop:
    """Return what is raised where a pool that belongs to `loop` is used on the one that is `running`."""
    return WrongLoop(
        f"pool {label!r} belongs to the loop {_name(loop)}, on which it was first used, and cannot be used on the loop "
        f"{_name(running)}; make one pool for each loop, or one with per_loop=True for all"
    )


def lost(label: str) -> AioLost:
    """Return what is raised where grpc.aio cannot work."""
    return AioLost(
        f"pool {label!r} cannot be used in this process: it was forked from one in which grpc.aio was in use, and "
        "grpc.aio does not work after that; close all pools and channels of grpc.aio before a fork, or start processes "
        "by the method 'spawn'"
    )


def _name(loop: asyncio.AbstractEventLoop) -> str:
    # Two loops of one kind may well have the same repr.
    return f"{loop!r} at {id(loop):#x}"
