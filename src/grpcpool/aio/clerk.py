"""Who makes the calls of the slow lane: waits for room, sends again what failed, and twice what is slow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from ..core.course import Course
from ..core.lease import NOBODY, Lease
from ..core.member import Member
from ..errors import PoolClosed, PoolError
from ..failover import LOOK_EVERY, LOOKS, NoRoom, numbered, only_elsewhere
from ..inflight import finish
from ..outcome import OK, RESENDS, UNAVAILABLE, left, refused, rest
from .interceptors import raised
from .replayed import Replayed

if TYPE_CHECKING:
    from .method import Method

__all__ = ["TICKET", "Clerk", "Ticket"]


class Ticket(NamedTuple):
    """What is known of a call on the slow lane beside what is to be sent.

    Attributes:
        member: was picked for it; None if none was.
        lease: it has that already, and has been sent there once, and refused; None if it has not.
    """

    method: Method
    member: Member | None
    lease: Lease | None


# Of the call that is being made there. The interceptor runs in a task that starts out from here.
TICKET: ContextVar[Ticket] = ContextVar("grpcpool.line.ticket")

# Takes a lease on one member or another; False if all are full.
Take = Callable[[Lease], bool]


class Clerk:
    """An interceptor of every kind: has calls of the slow lane wait for a lease, and makes them where that is then.

    Arguments:
        wait: waits until a lease is taken, and returns what is left of the RPC's timeout; see `Line`.
        resent: counts an RPC that is sent again to where it was refused.
        capped: the pool's members have a limit, so that it is no wonder if a server refuses something.
    """

    def __init__(
        self,
        wait: Callable[[Lease, float | None], Coroutine[Any, Any, float | None]],
        resent: Callable[[], object],
        capped: bool,
    ) -> None:
        self._wait = wait
        self._resent = resent
        self._resends = RESENDS if capped else 0

    async def intercept_unary_unary(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        """Make a unary RPC, as often as its plan has it, and return the call of the attempt that counts."""
        method, member, held = TICKET.get()
        order = _Order(method, details, request)
        started = monotonic()
        if method.plan.hedge_after is not None:
            return await self._hedge(order, member)
        lease = held or Lease(method.timed)
        call = await self._run(order, lease, _on(method, member), details.timeout, 0)
        code = await call.code()
        if code is OK or not order.may_repeat():
            return call
        course = method.failover.course(method.plan, lease.member)
        number = 1
        while code is not OK and await _goes_on(order, course, call, lease.member, left(details.timeout, started)):
            number += 1
            method.failover.tell(method.name, number, course.kind, code)
            lease = Lease(method.timed)
            timeout = left(details.timeout, started)
            try:
                call = await self._run(order, lease, _elsewhere(method, course.tried), timeout, course.counted - 1)
            except PoolClosed:
                # While it rested; it ends as it failed.
                return call
            course.tried.append(lease.member)
            code = await call.code()
        return call

    async def intercept_unary_stream(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        """Start a streaming RPC, and return its call."""
        method, member, _ = TICKET.get()
        order = _Order(method, details, request)
        if method.plan.attempts > 1:
            return await self._replay(order, member)
        call = await self._start(order, Lease(method.timed), _on(method, member), details.timeout, 0)
        # What is written to a call that waits is passed on by grpc, which expects this of the call that it goes to; it
        # is there unless interceptors of the user's stand before that as well.
        if not hasattr(call, "_done_writing_flag"):
            call._done_writing_flag = False
        return call

    intercept_stream_unary = intercept_stream_stream = intercept_unary_stream

    async def _run(self, order: _Order, lease: Lease, take: Take, timeout: float | None, previous: int) -> Any:
        """Make one attempt at a unary RPC, and return its call when that has ended.

        Arguments:
            lease: if it is taken already, the RPC was sent there and refused.
            previous: attempts before this one that may have reached a server.
        """
        method = order.method
        call: Any = None
        again = 0 if lease.member is NOBODY else 1
        try:
            if again == 0:
                call, timeout = await self._send(order, lease, take, timeout, previous)
            else:
                call, timeout = await self._resend(order, lease, take, timeout, previous, again)
            while True:
                started = monotonic()
                code = await _end_of(call)
                if again >= self._resends or code is not UNAVAILABLE or not refused(code, await _words_of(call)):
                    break
                again += 1
                call, timeout = await self._resend(order, lease, take, left(timeout, started), previous, again)
            finish(method, lease.member, lease, lease.started, code)
        except BaseException:
            # Cancelled by its caller, most likely.
            if call is not None:
                call.cancel()
            lease.cancel(monotonic())
            raise
        return call

    async def _send(
        self, order: _Order, lease: Lease, take: Take, timeout: float | None, previous: int
    ) -> tuple[Any, float | None]:
        """Start an RPC when there is room for it; return its call, and what was left of its timeout."""
        while True:
            if not take(lease):
                timeout = await self._wait(lease, timeout)
            if not lease.member.closed:
                return order.send(lease.member, timeout, previous), timeout
            # Before it was its turn on the loop, its member's channel was closed: with the pool, which then says so, or
            # because drain_timeout was over.
            lease.cancel(monotonic())

    async def _resend(
        self, order: _Order, lease: Lease, take: Take, timeout: float | None, previous: int, again: int
    ) -> tuple[Any, float | None]:
        """Send an RPC again that was refused, after a rest; as `_send`.

        Arguments:
            again: how often it is then, with this time.
        """
        started = monotonic()
        # It keeps its lease meanwhile: so a server that has too much to do gets less from here.
        await asyncio.sleep(rest(again, timeout))
        timeout = left(timeout, started)
        try:
            call = order.send(lease.member, timeout, previous)
        except grpc.aio.UsageError:
            # The channel was closed while this rested: with the pool, which then says so, or because drain_timeout was
            # over.
            lease.cancel(monotonic())
            return await self._send(order, lease, take, timeout, previous)
        self._resent()
        return call, timeout

    async def _start(self, order: _Order, lease: Lease, take: Take, timeout: float | None, previous: int) -> Any:
        """Start a streaming RPC, and return its call."""
        try:
            call, _ = await self._send(order, lease, take, timeout, previous)
            return order.method.follow(lease, call)
        except BaseException:
            lease.cancel(monotonic())
            raise

    async def _replay(self, order: _Order, member: Member | None) -> Replayed:
        """Start a server stream, again if it fails before its first message, and return its call when that is there."""
        method, details = order.method, order.details
        started = monotonic()
        lease = Lease(method.timed)
        call = await self._start(order, lease, _on(method, member), details.timeout, 0)
        course = method.failover.course(method.plan, lease.member)
        number = 1
        while True:
            try:
                return Replayed(call, await call.read())
            except grpc.aio.AioRpcError as error:
                failure = error.with_traceback(None)
                timeout = left(details.timeout, started)
                if not (order.may_repeat() and await _goes_on(order, course, call, lease.member, timeout)):
                    return Replayed(call, None, failure)
                number += 1
                method.failover.tell(method.name, number, course.kind, failure.code())
            except BaseException:
                call.cancel()
                raise
            lease = Lease(method.timed)
            timeout = left(details.timeout, started)
            try:
                call = await self._start(order, lease, _elsewhere(method, course.tried), timeout, course.counted - 1)
            except PoolClosed:
                return Replayed(call, None, failure)
            course.tried.append(lease.member)

    async def _hedge(self, order: _Order, member: Member | None) -> Any:
        """Run a unary RPC of which a second copy may be sent; return the call that succeeded first, or failed last."""
        method, details = order.method, order.details
        failover = method.failover
        usual = failover.usual(method.name)
        usual_only = method.plan.hedge_after == 0
        pause = usual.seconds if usual_only else method.plan.hedge_after
        started = monotonic()
        running: set[asyncio.Task[Any]] = set()

        def send(lease: Lease, take: Take, timeout: float | None, previous: int) -> None:
            task = asyncio.get_running_loop().create_task(self._run(order, lease, take, timeout, previous))
            # The copy that lost may fail as well, and nobody wants to know.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
            running.add(task)

        lease = Lease(method.timed)
        may = True
        unsent = False
        call: Any = None
        code = None
        failure: Exception | None = None
        try:
            send(lease, _on(method, member), details.timeout, 0)
            while running:
                done, _ = await asyncio.wait(
                    running, timeout=pause if may else None, return_when=asyncio.FIRST_COMPLETED
                )
                running -= done
                if not done:
                    # What comes next is the end of the first one.
                    pause = None
                for task in done:
                    try:
                        call = task.result()
                    except (NoRoom, PoolError) as error:
                        # It was not sent after all, so the other one, if there is one, is on its own.
                        may = False
                        if failure is None and isinstance(error, PoolError):
                            failure = error
                        continue
                    code = await call.code()
                    if code is OK:
                        usual.learn(monotonic() - started)
                        return call
                    end = failover.end(code, await _words_of(call), await call.trailing_metadata(), lease.member)
                    if not (end.untouched or end.lost) and code is not UNAVAILABLE:
                        # An answer, if not the one that was hoped for.
                        return call
                    unsent = end.unsent
                    may = may and (end.pushback is None or end.pushback >= 0)
                # A copy that had to wait in line would be late, and in the way of others.
                room = may and failover.has_others([lease.member]) and method.source.spare([lease.member]) is not None
                rare = not usual_only or call is not None or (room and usual.spare())
                if room and rare and (unsent or failover.afford()):
                    failover.tell(method.name, 2, "hedge", code)
                    timeout = left(details.timeout, started)
                    send(Lease(method.timed), only_elsewhere(method.source, [lease.member]), timeout, 1)
                    may = False
                # One that could not be sent when it was time may be sent if the first one fails.
                may = may and not done
        finally:
            # The copy that lost; or both, if the caller cancelled.
            for task in running:
                task.cancel()
        if call is None and failure is not None:
            raise failure
        return call


class _Order(NamedTuple):
    """What is to be sent, and by what method."""

    method: Method
    details: grpc.aio.ClientCallDetails
    request: Any

    def may_repeat(self) -> bool:
        """Say whether it may be sent again if it fails."""
        plan = self.method.plan
        return plan.failover or plan.attempts > 1

    def send(self, member: Member, timeout: float | None, previous: int) -> Any:
        """Send it to the member, and return the call."""
        details = self.details
        return self.method.call(
            member,
            self.request,
            timeout=timeout,
            metadata=numbered(details.metadata, previous),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )


def _on(method: Method, member: Member | None) -> Take:
    return lambda lease: method.source.attempt(lease, member)


def _elsewhere(method: Method, tried: Collection[Member]) -> Take:
    return lambda lease: method.source.elsewhere(lease, tried)


async def _end_of(call: Any) -> grpc.StatusCode:
    """Return the status of a unary call when it has ended; raise if it never begins."""
    # What grpc refuses to send raises in a task of the call's own, and the call itself never ends.
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call.wait_for_connection()
    code: grpc.StatusCode = await call.code()
    return code


async def _words_of(call: Any) -> str | None:
    """Return the details that an RPC ended with; None if those are of something else that an interceptor did."""
    return None if raised(call) else await call.details()


async def _goes_on(order: _Order, course: Course, call: Any, member: Member, left: float | None) -> bool:
    """Say whether an RPC that failed is sent again, when it is time for that."""
    failover = order.method.failover
    code, details = await call.code(), await _words_of(call)
    for _ in range(LOOKS):
        if not failover.is_early(code, details, member):
            break
        await asyncio.sleep(LOOK_EVERY)
    end = failover.end(code, details, await call.trailing_metadata(), member)
    if end.lost:
        order.method.suspect(member)
    rest = course.next(end, others=failover.has_others(course.tried), left=left)
    if rest is None:
        return False
    await asyncio.sleep(rest)
    return True
