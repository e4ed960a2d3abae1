"""Waiting for a member to have room, on a loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import grpc

from .. import originals
from ..core.admission import Waiter
from ..core.engine import Engine
from ..core.lease import NOBODY, Lease
from ..core.line import describe_closed, describe_full, describe_wait, longest
from ..outcome import left
from .calls import let_go_of_calls
from .clerk import TICKET, Clerk, Ticket
from .errors import AioPoolFull, AioPoolTimeout, AioWaitClosed
from .interceptors import KINDS, for_members

__all__ = ["Line"]


class Line:
    """The line in front of a pool's members, for callers that are given a call at once, and wait inside it.

    grpc's own calls can do that where an interceptor stands before them: so the RPCs that have to wait go by a channel
    of their own, the slow lane, which never connects. Its one interceptor waits, and then makes the call on a member.

    Arguments:
        acquire_timeout: how long an RPC may wait, in seconds; None: as long as its own deadline allows.
        loop: returns the pool's loop.

    Attributes:
        life: another one each time that this begins anew; multicallables made before are of no use then.
    """

    def __init__(
        self, engine: Engine, acquire_timeout: float | None, loop: Callable[[], asyncio.AbstractEventLoop]
    ) -> None:
        self._engine = engine
        self._acquire_timeout = acquire_timeout
        self._loop = loop
        self.renew()

    def renew(self) -> None:
        """Begin anew, in a forked process or on another loop."""
        self._lane: grpc.aio.Channel | None = None
        self.life = object()

    def multicallable(self, kind: str, *arguments: Any) -> Any:
        """Return the multicallable of a method on the slow lane."""
        if self._lane is None:
            admission = self._engine.admission
            clerk = Clerk(self._wait, admission.resent.add, admission.capped)
            interceptors = for_members({kind: [clerk] for kind in KINDS})
            self._lane = originals.aio_insecure_channel("ipv4:0.0.0.0:0", interceptors=interceptors)
            let_go_of_calls(self._lane)
        return getattr(self._lane, kind)(*arguments)

    @staticmethod
    def launch(ticket: Ticket, multicallable: Any, request: Any, **arguments: Any) -> Any:
        """Make a call on the slow lane, and return it at once."""
        token = TICKET.set(ticket)
        try:
            return multicallable(request, **arguments)
        finally:
            TICKET.reset(token)

    @property
    def lane(self) -> grpc.aio.Channel | None:
        """The slow lane; None if nobody has had to wait yet."""
        return self._lane

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
