"""Unary RPCs of which a second copy is sent, to another member, when the first takes too long."""

from __future__ import annotations

import contextlib
import queue
from time import monotonic
from typing import TYPE_CHECKING, Any

import grpc

from ..core.lease import Lease
from ..errors import PoolError
from ..failover import NoRoom, can_repeat, numbered, only_elsewhere
from ..outcome import left

if TYPE_CHECKING:
    from .method import Method

__all__ = ["run"]


def run(method: Method, request: Any, timeout: float | None, metadata: Any, *others: Any) -> Any:
    """Run a blocking RPC, and return its call, which has ended: the copy that succeeded first, or failed last.

    A copy that fails where another one may fare better is followed by the second at once.
    """
    plan, failover = method.plan, method.failover
    started = monotonic()
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    calls: list[Any] = []

    def send(take: Any, timeout: float | None, metadata: Any) -> Lease:
        lease = Lease(timed=True)
        call = method.start(lease, take, "future", request, timeout, metadata, *others)
        calls.append(call)
        call.add_done_callback(ended.put)
        return lease

    usual = failover.usual(method.name)
    usual_only = plan.hedge_after == 0
    pause = usual.seconds if usual_only else plan.hedge_after
    running = 1
    try:
        first = send(method.source.attempt, timeout, metadata)
        course = failover.course(plan, first.member)
        may = can_repeat(metadata)
        unsent = False
        while True:
            try:
                call = ended.get(timeout=pause if may else None)
            except queue.Empty:
                # What comes next is the end of the first one.
                call, pause = None, None
            else:
                running -= 1
                code = call.code()
                if code is grpc.StatusCode.OK:
                    usual.learn(monotonic() - started)
                    return call
                end = failover.end(code, call.details(), call.trailing_metadata(), first.member)
                if not (end.untouched or end.lost) and code is not grpc.StatusCode.UNAVAILABLE:
                    # An answer, if not the one that was hoped for.
                    return call
                unsent = end.unsent
                may = may and (end.pushback is None or end.pushback >= 0)
            # A copy that had to wait in line would be late, and in the way of others.
            room = may and failover.has_others(course.tried) and method.source.spare(course.tried) is not None
            rare = not usual_only or call is not None or (room and usual.spare())
            if room and rare and (unsent or failover.afford()):
                # If it cannot be sent after all, the first one is on its own.
                with contextlib.suppress(NoRoom, PoolError):
                    send(only_elsewhere(method.source, course.tried), left(timeout, started), numbered(metadata, 1))
                    running += 1
                    may = False
                    failover.tell(method.name, 2, "hedge", None if call is None else call.code())
            # One that could not be sent when it was time may be sent if the first one fails.
            may = may and call is None
            if not running:
                return call
    finally:
        # Ctrl-C, or the copy that lost.
        for call in calls:
            call.cancel()
