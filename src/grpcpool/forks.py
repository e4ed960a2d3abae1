"""Forks of the process: who is told of them, and what the child must never let go of.

grpc's own preparations for a fork work only if no thread is inside grpc at that moment; else the child inherits locks
that nobody will release, and lists of threads that it does not have. So the pools keep their threads out of grpc for as
long as the fork takes, and in the child they begin anew: nothing of the parent's channels is used there, or even freed.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from . import registry
from .telemetry.logging import logger

__all__ = ["NO_PICKLE", "PATIENCE", "Forkable", "enroll", "has_lost_aio", "preserve"]

# How long a fork waits for running calls to end, in seconds, and new ones for the fork. Calls that take longer are rare
# where processes fork, and a fork that takes much longer than this would look like a hang.
PATIENCE = 2.0
# What is said where a pool is to be sent to another process.
NO_PICKLE = (
    "a ChannelPool cannot be pickled, for connections do not go from one process to another; let each process make its "
    "own, from the same PoolConfig, or where a module is imported"
)


class Forkable:
    """What is told of forks, and does nothing about them. What it raises is logged, and the fork goes on."""

    def pause(self) -> None:
        """Before a fork: let nothing more begin. Must not wait."""

    def settle(self, deadline: float) -> None:
        """Before a fork, when all are paused: return when nothing is going on, or at the time `deadline`."""

    def resume(self) -> None:
        """After a fork, in the parent: let things go on."""

    def catch_up(self) -> None:
        """After a fork, in the parent, when all go on: do what has come in meanwhile."""

    def restart(self) -> None:
        """After a fork, in the child: begin anew. No other thread exists, and whatever lock they held is still held."""


_enrolled: dict[int, weakref.ref[Forkable]] = {}
_numbers = itertools.count()
# What lives as long as the process does, if there is no better way.
_preserved: list[Any] = []


class _Fork:
    """The fork that is under way.

    Attributes:
        lock: one fork after the other, or one would resume what the other has paused.
        paused: held, for what is paused must not be collected before it is resumed.
        aio: grpc.aio is at work in this process.
        lost_aio: it was at work in the process that this one is a fork of.
    """

    def __init__(self) -> None:
        self.lost_aio = False
        self.aio = False
        self.renew()

    def renew(self) -> None:
        """Begin anew, in a child."""
        self.lock = threading.RLock()
        self.paused: list[Forkable] = []
        self.lost_aio = self.lost_aio or self.aio
        self.aio = False


_fork = _Fork()


def enroll(pool: Forkable) -> None:
    """Tell `pool` of every fork, for as long as it lives; it is not kept alive. Waits while there is one."""
    number = next(_numbers)

    def gone(_: object) -> None:
        _enrolled.pop(number, None)

    with _fork.lock:
        _enrolled[number] = weakref.ref(pool, gone)


def preserve(*things: object) -> None:
    """See to it that `things` are never freed in this process, not even when the interpreter ends.

    A channel of the parent's that is freed in the child closes its connection as if it were the child's own.
    """
    keep = list(things)
    try:
        import ctypes
    except ImportError:  # pragma: no cover - some builds of Python have none
        _preserved.append(keep)
    else:
        # A reference that nobody has, and so nobody can give back.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(keep))


def has_lost_aio() -> bool:
    """Say whether grpc.aio waits in this process for a thread that only its parent has; then it waits for ever."""
    return _fork.lost_aio


def _alive() -> list[Forkable]:
    # A copy is made in one step; what is collected meanwhile leaves the original.
    return [pool for reference in _enrolled.copy().values() if (pool := reference()) is not None]


def _each(pools: list[Forkable], do: Callable[[Forkable], object]) -> None:
    for pool in pools:
        try:
            do(pool)
        except Exception:
            logger.exception("a pool could not be prepared for a fork, or brought back after it")


def _before() -> None:
    _fork.lock.acquire()
    deadline = time.monotonic() + PATIENCE
    _fork.paused = _alive()
    _each(_fork.paused, lambda pool: pool.pause())
    _each(_fork.paused, lambda pool: pool.settle(deadline))
    # Last, for a pool whose loop has ended lets go of grpc.aio when it is paused. There is no asking grpc.aio whether
    # its thread runs, but it is named by the function that it runs.
    _fork.aio = any("_poll_wrapper" in thread.name for thread in threading.enumerate())


def _in_parent() -> None:
    paused, _fork.paused = _fork.paused, []
    _each(paused, lambda pool: pool.resume())
    _fork.lock.release()
    _each(paused, lambda pool: pool.catch_up())


def _in_child() -> None:
    _fork.renew()
    registry.renew()
    _each(_alive(), lambda pool: pool.restart())


# There are no forks on Windows.
if hasattr(os, "register_at_fork"):  # pragma: no branch
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
