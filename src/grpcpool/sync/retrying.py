"""Server streams that may begin anew, on another member, as long as nothing of them has arrived."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from time import monotonic
from typing import TYPE_CHECKING, Any

import grpc

from ..core.lease import Lease
from ..errors import PoolClosed
from ..failover import LOOK_EVERY, LOOKS, can_repeat, numbered
from ..outcome import left

if TYPE_CHECKING:
    from typing_extensions import Self

    from .method import Method

__all__ = ["RetriedStream"]


class RetriedStream(grpc.Call):
    """The call of a server stream whose method has a policy for retries. Same contract as grpc's.

    An attempt that fails before its first message is followed by another, in the thread that waits for that message.
    What this object is asked for, it answers for the attempt that is under way.

    Arguments:
        method: what is called.
        arguments: the request, the timeout and so on, as a multicallable takes them.
    """

    def __init__(self, method: Method, *arguments: Any) -> None:
        self._method = method
        self._request, self._timeout, self._metadata, *self._others = arguments
        self._started = monotonic()
        # Nothing has arrived yet, and nothing else speaks against another attempt.
        self._open = can_repeat(self._metadata)
        self._cancelled = threading.Event()
        # The affinity key is that of the moment in which the RPC was begun, wherever it is read from.
        self._context = copy_context()
        self._callbacks: list[Callable[[], object]] = []
        self._lease = Lease(timed=False)
        self._call = method.start(
            self._lease, method.source.attempt, "__call__", self._request, self._timeout, self._metadata, *self._others
        )
        self._course = method.failover.course(method.plan, self._lease.member)
        self._number = 1

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        while True:
            try:
                message = next(self._call)
            except grpc.RpcError as error:
                try:
                    again = self._open and not self._cancelled.is_set() and self._again(error)
                except BaseException:
                    # There was no room for another attempt, or Ctrl-C.
                    self._settle()
                    raise
                if not again:
                    self._settle()
                    raise
            except BaseException:
                # StopIteration, mostly: a stream without a message.
                self._settle()
                raise
            else:
                self._settle()
                return message

    next = __next__

    def _again(self, error: Any) -> bool:
        """Make another attempt, after a rest; False if there is to be none."""
        method, course = self._method, self._course
        code, details, member = error.code(), error.details(), self._lease.member
        for _ in range(LOOKS):
            if not method.failover.is_early(code, details, member) or self._cancelled.wait(LOOK_EVERY):
                break
        rest = course.next(
            method.failover.end(code, details, error.trailing_metadata(), member),
            others=method.failover.has_others(course.tried),
            left=left(self._timeout, self._started),
        )
        if rest is None or self._cancelled.wait(rest):
            return False
        self._number += 1
        method.failover.tell(method.name, self._number, course.kind, code)
        lease = Lease(timed=False)
        try:
            call = method.start(
                lease,
                self._elsewhere,
                "__call__",
                self._request,
                left(self._timeout, self._started),
                numbered(self._metadata, course.counted - 1),
                *self._others,
            )
        except PoolClosed:
            # While it rested; it ends as it failed.
            return False
        self._lease, self._call = lease, call
        # What was raised is the call that ended. By way of its traceback it would keep this one alive, and thereby the
        # new call, if they are dropped half read.
        error.__traceback__ = None
        course.tried.append(self._lease.member)
        if self._cancelled.is_set():
            # Cancelled in between, when there was nothing to be cancelled.
            self._call.cancel()
        return True

    def _elsewhere(self, lease: Lease) -> bool:
        # In a copy, for several threads may read at once, and a context is entered by one at a time.
        return self._context.copy().run(self._method.source.elsewhere, lease, self._course.tried)

    def _settle(self) -> None:
        """From now on there is no other attempt."""
        self._open = False
        # Perhaps in several threads at once.
        while self._callbacks:
            try:
                callback = self._callbacks.pop(0)
            except IndexError:
                break
            if not self._call.add_callback(callback):
                callback()

    def __del__(self) -> None:
        # Whoever drops it half read, or unread, ends it; grpc's call knows that in a moment.
        if self.__dict__.get("_callbacks"):
            self._settle()

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """Call `callback` when the RPC has ended; False if it has."""
        kept = self._open
        if kept:
            self._callbacks.append(callback)
            if not self._open:
                # It was settled at this very moment, perhaps without this one.
                self._settle()
            return True
        added: bool = self._call.add_callback(callback)
        return added

    def cancel(self) -> bool:
        """End the RPC, whatever it is doing."""
        self._cancelled.set()
        cancelled: bool = self._call.cancel()
        self._settle()
        return cancelled

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call `callback` with this call when the RPC is over, as streams do that are futures too."""
        if not self.add_callback(lambda: callback(self)):
            callback(self)

    def is_active(self) -> bool:
        """Say whether the RPC is running."""
        active: bool = self._call.is_active()
        return active

    def time_remaining(self) -> float | None:  # type: ignore[override]
        """Return the seconds that the RPC has left; None if it has no deadline."""
        remaining: float | None = self._call.time_remaining()
        return remaining

    def initial_metadata(self) -> Any:
        """Return the initial metadata of the attempt under way; blocks until they are there."""
        return self._call.initial_metadata()

    def trailing_metadata(self) -> Any:
        """Return the trailing metadata of the attempt under way; blocks until it ends."""
        return self._call.trailing_metadata()

    def code(self) -> Any:
        """Return the status of the attempt under way; blocks until it ends."""
        return self._call.code()

    def details(self) -> Any:
        """Return the details of the attempt under way; blocks until it ends."""
        return self._call.details()

    def __getattr__(self, name: str) -> Any:
        # Streams are futures as well, and know more besides.
        if name == "_call":
            raise AttributeError(name)
        return getattr(self._call, name)
