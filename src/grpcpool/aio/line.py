"""Waiting for a member to have room, on a loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any

import grpc

from .. import originals
from ..core.admission import Waiter
from ..core.engine import Engine
from ..core.lease import NOBODY, Lease
from ..core.line import describe_closed, describe_full, describe_wait, longest
from ..core.member import Member
from ..inflight import finish
from ..outcome import RESENDS, UNAVAILABLE, left, refused, rest
from .calls import let_go_of_calls
from .errors import AioPoolFull, AioPoolTimeout, AioWaitClosed
from .interceptors import KINDS, for_members

if TYPE_CHECKING:
    from .multicallables import Method

__all__ = ["Line"]

# The call that is being made on the slow lane: of which method, and for which member it was picked. The interceptor
# runs in a task that starts out from here.
_CALL: ContextVar[tuple[Method, Member]] = ContextVar("grpcpool.line.call")


class _Clerk:
    """An interceptor of every kind: has calls of the slow lane wait for a lease, and makes them where that is then."""

    def __init__(
        self, wait: Callable[[Lease, float | None], Coroutine[Any, Any, float | None]], resent: Callable[[], object]
    ) -> None:
        self._wait = wait
        self._resent = resent

    async def intercept_unary_unary(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        method, member = _CALL.get()
        lease = Lease(method.timed)
        call: Any = None
        try:
            timeout = await self._take(method, member, lease, details.timeout)
            started = monotonic()
            call = method.call(lease.member, request, timeout, details)
            code = await call.code()
            # It keeps its lease while it rests: so a server that has too much to do gets less from here meanwhile.
            for number in range(1, RESENDS + 1):
                if code is not UNAVAILABLE or not refused(code, await call.details()):
                    break
                timeout = left(timeout, started)
                started = monotonic()
                await asyncio.sleep(rest(number, timeout))
                try:
                    call = method.call(lease.member, request, left(timeout, started), details)
                except grpc.aio.UsageError:
                    # The channel was closed while this rested: with the pool, or because drain_timeout was over.
                    break
                self._resent()
                code = await call.code()
            finish(method, lease.member, lease, lease.started, code)
        except BaseException:
            # Cancelled by its caller, most likely.
            if call is not None:
                call.cancel()
            lease.cancel(monotonic())
            raise
        return call

    async def intercept_unary_stream(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        method, member = _CALL.get()
        lease = Lease(method.timed)
        try:
            timeout = await self._take(method, member, lease, details.timeout)
            call = method.start(lease, request, timeout, details)
        except BaseException:
            lease.cancel(monotonic())
            raise
        # What is written to a call that waits is passed on by grpc, which expects this of the call that it goes to; it
        # is there unless interceptors of the user's stand before that as well.
        if not hasattr(call, "_done_writing_flag"):
            call._done_writing_flag = False
        return call

    intercept_stream_unary = intercept_stream_stream = intercept_unary_stream

    async def _take(self, method: Method, member: Member, lease: Lease, timeout: float | None) -> float | None:
        return timeout if method.source.attempt(lease, member) else await self._wait(lease, timeout)


class Line:
    """The line in front of a pool's members, for callers that are given a call at once, and wait inside it.

    grpc's own calls can do that where an interceptor stands before them: so the RPCs that have to wait go by a channel
    of their own, the slow lane, which never connects. Its one interceptor waits, and then makes the call on a member.

    Arguments:
        acquire_timeout: how long an RPC may wait, in seconds; None: as long as its own deadline allows.
        loop: returns the pool's loop.
    """

    def __init__(
        self, engine: Engine, acquire_timeout: float | None, loop: Callable[[], asyncio.AbstractEventLoop]
    ) -> None:
        self._engine = engine
        self._acquire_timeout = acquire_timeout
        self._loop = loop
        self._lane: grpc.aio.Channel | None = None

    def multicallable(self, kind: str, *arguments: Any) -> Any:
        """Return the multicallable of a method on the slow lane."""
        if self._lane is None:
            clerk = _Clerk(self._wait, self._engine.admission.resent.add)
            interceptors = for_members({kind: [clerk] for kind in KINDS})
            self._lane = originals.aio_insecure_channel("ipv4:0.0.0.0:0", interceptors=interceptors)
            let_go_of_calls(self._lane)
        return getattr(self._lane, kind)(*arguments)

    @staticmethod
    def launch(method: Method, member: Member, multicallable: Any, request: Any, **arguments: Any) -> Any:
        """Make a call of the method on the slow lane, and return it at once.

        Arguments:
            member: was picked for it.
        """
        token = _CALL.set((method, member))
        try:
            return multicallable(request, **arguments)
        finally:
            _CALL.reset(token)

    async def close(self) -> None:
        """Close the slow lane."""
        if self._lane is not None:
            await self._lane.close()

    async def _wait(self, lease: Lease, timeout: float | None) -> float | None:
        """Wait until the lease is taken, and return what is left of the RPC's timeout.

        Arguments:
            timeout: the RPC's, in seconds; None if it has no deadline.

        Raises:
            AioPoolFull: too many wait already.
            AioPoolTimeout: it took too long.
            AioWaitClosed: the pool was closed meanwhile.

        If it raises, the lease may have been taken nevertheless; give it back by `Lease.cancel`.
        """
        admission, loop = self._engine.admission, self._loop()
        turn: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not turn.done():
                turn.set_result(None)

        waiter = Waiter(lease, wake)
        started = monotonic()
        alarm = loop.call_later(max(longest(self._acquire_timeout, timeout), 0), wake)
        try:
            if not admission.enter(waiter):
                raise AioPoolFull(describe_full(self._engine))
            await turn
        except BaseException:
            admission.leave(waiter)
            raise
        finally:
            alarm.cancel()
        waited = monotonic() - started
        if admission.leave(waiter):
            admission.refused.add()
            raise AioPoolTimeout(describe_wait(self._engine, waited))
        if lease.member is NOBODY:
            raise AioWaitClosed(describe_closed(self._engine, waited))
        return left(timeout, started)
