"""One method on a counted channel: where its RPCs begin, and how they end."""

from __future__ import annotations

from collections.abc import Callable, Collection
from threading import get_ident
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from ..core.affinity import KeyedSource
from ..core.course import Plan
from ..core.generation import Generation
from ..core.lease import NOBODY, Lease
from ..core.member import Member
from ..core.pinned import Pinned
from ..errors import PoolClosed, PoolError
from ..failover import LOOK_EVERY, LOOKS, can_repeat, numbered
from ..inflight import InFlight, finish
from ..outcome import RESENDS, UNAVAILABLE, code_of, left, refused, rest, verdict
from . import hedging
from .retrying import RetriedStream

if TYPE_CHECKING:
    from .channel import CountedChannel

__all__ = ["Method", "MethodKey", "Source"]

# The kind of RPC, the method's name, the serializer, the deserializer, and whether the method is registered.
MethodKey = tuple[str, str, Any, Any, bool]


class Source(Protocol):
    """Where a channel's RPCs get their members from: an `Engine`, or one member of it."""

    @property
    def generation(self) -> Generation | Pinned | KeyedSource:
        """What has the `pick` that is to be called now."""
        ...

    def attempt(self, lease: Lease) -> bool:
        """Pick, and take the lease on what was picked, or on another one if that is full; False if all are full."""
        ...

    def elsewhere(self, lease: Lease, tried: Collection[Member], *, only: bool = False) -> bool:
        """Take the lease on a member that is not among `tried`, if there is one; else as `attempt`, unless `only`."""
        ...

    def spare(self, tried: Collection[Member] = ()) -> Member | None:
        """Return a member that has room at this moment and is not among `tried`, or None."""
        ...


# Takes a lease on one member or another; False if all are full.
Take = Callable[[Lease], bool]


class Method:
    """One RPC method on a counted channel: where its calls start and how they end.

    Attributes:
        source: knows the member that shall serve the next call.
        inner: the multicallable of every member that has served the method, so that each is built once.
        failover, plan: what is done for RPCs that fail.
        name: as it is known to the server.
        norm, suspect, timed: see `inflight.Method`.
    """

    __slots__ = (
        "_keep",
        "_key",
        "_line",
        "_suspect",
        "failover",
        "inner",
        "name",
        "norm",
        "plan",
        "source",
        "timed",
    )

    def __init__(self, channel: CountedChannel, key: MethodKey) -> None:
        self.source = channel.source
        self._line = channel.line
        self.inner: dict[Member, Any] = {}
        self.norm = channel.norms.of(key[1])
        self._suspect = channel.suspect
        self.timed = key[0] == "unary_unary"
        self.name = key[1]
        self.failover = channel.failover
        # Whoever asked for one member is not given another.
        self.plan: Plan = channel.failover.plan(self.name, unary=self.timed, streamed=key[0] == "unary_stream")
        # Stubs often outlive the name of the channel they were made from; it must not be collected beneath them.
        self._keep = channel
        self._key = key

    def build(self, member: Member) -> Any:
        """Build the member's multicallable."""
        # grpc's registration of methods is not thread-safe, so members' multicallables are built under a lock.
        with self._line.building:
            inner = self.inner.get(member)
            if inner is None:
                if member.closed:
                    # As grpc says if a multicallable is called on a closed channel. Building one there makes grpc
                    # 1.85 end the process.
                    raise ValueError("Cannot invoke RPC: Channel closed!")
                kind, method, serializer, deserializer, registered = self._key
                # Passed only where it matters: a channel that somebody put in place of grpc's may not know it.
                extra = {"_registered_method": True} if registered else {}
                inner = getattr(member.channel, kind)(method, serializer, deserializer, **extra)
                for gone in [other for other in self.inner if other.retired]:
                    del self.inner[gone]
                self.inner[member] = inner
            return inner

    def code_of(self, call: Any) -> grpc.StatusCode | None:
        """Return the status of a call that has ended; None if it is an object that has none."""
        return verdict(getattr(call, "code", _nothing)(), call)

    def suspect(self, member: Member) -> None:
        """Have a look taken at a member on which an RPC ended UNAVAILABLE."""
        self._suspect(member)

    def block(self, how: str, request: Any, timeout: float | None, *arguments: Any) -> Any:
        """Run a blocking RPC by the multicallable's method `how`, and return its result."""
        lease = Lease(self.timed)
        started = monotonic()
        try:
            return self._run(lease, self.source.attempt, how, request, timeout, *arguments)
        except grpc.RpcError as error:
            return self.again(error, lease.member, how, request, left(timeout, started), *arguments)

    def _run(self, lease: Lease, take: Take, how: str, request: Any, timeout: float | None, *arguments: Any) -> Any:
        """Make one attempt at a blocking RPC, and return its result."""
        # All of it within `try`, for Ctrl-C can strike after any step.
        try:
            if not take(lease):
                timeout = self._line.wait(lease, timeout)
            started = monotonic()
            call: Any = None
            try:
                call = getattr(self.inner.get(lease.member) or self.build(lease.member), how)
                result = call(request, timeout, *arguments)
            except grpc.RpcError as error:
                if not self.is_refused(error, arguments[0]):
                    raise
                result = self.resend(error, call, request, left(timeout, started), *arguments)
            except ValueError as error:
                if not self.came_late(error, lease.member, arguments[0]):
                    raise
                lease.cancel(monotonic())
                return self._run(lease, take, how, request, left(timeout, started), *arguments)
            now = monotonic()
            lease.member.answered(lease, now, now - lease.started if self.timed else None, self.norm)
        except BaseException as error:
            # As in `UnaryUnary.__call__`.
            try:
                if lease.member is not NOBODY:
                    finish(self, lease.member, lease, lease.started, verdict(code_of(error), error))
            finally:
                lease.cancel(monotonic())
            raise
        return result

    def again(
        self, error: grpc.RpcError, member: Member, how: str, request: Any, timeout: float | None, *arguments: Any
    ) -> Any:
        """Send an RPC that failed once more, and again, as its plan has it; return its result, or raise its last error.

        Arguments:
            error: what it ended with.
            member: where.
            timeout: what it has left, in seconds; None if it has no deadline.
        """
        # Held here, what is raised would hold itself, by way of its traceback, and all that its caller holds.
        try:
            metadata, *others = arguments
            plan, failover = self.plan, self.failover
            if isinstance(error, PoolError) or not (plan.failover or plan.attempts > 1) or not can_repeat(metadata):
                raise error
            course = failover.course(plan, member)
            number = 1
            while True:
                started = monotonic()
                code, details, trailing = _end_of(error)
                for _ in range(LOOKS):
                    if not failover.is_early(code, details, member):
                        break
                    sleep(LOOK_EVERY)
                end = failover.end(code, details, trailing, member)
                if end.lost:
                    self.suspect(member)
                rest_for = course.next(end, others=failover.has_others(course.tried), left=left(timeout, started))
                if rest_for is None:
                    raise error
                if rest_for:
                    sleep(rest_for)
                number += 1
                failover.tell(self.name, number, course.kind, code)
                lease = Lease(self.timed)
                try:
                    return self._run(
                        lease,
                        lambda lease: self.source.elsewhere(lease, course.tried),
                        how,
                        request,
                        left(timeout, started),
                        numbered(metadata, course.counted - 1),
                        *others,
                    )
                except PoolClosed as closed:
                    # While it rested; it ends as it failed.
                    raise error from closed
                except grpc.RpcError as failure:
                    error, member = failure, lease.member
                    if isinstance(failure, PoolError):
                        raise
                course.tried.append(member)
                timeout = left(timeout, started)
        finally:
            del error

    def hedge(self, request: Any, timeout: float | None, *arguments: Any) -> tuple[Any, Any]:
        """Run a blocking RPC of which a second copy may be sent; return its result, and its call."""
        if self._line.teller is None or self._line.teller.is_this:
            # Copies are futures, whose ends nobody could tell. (A blocking call sees to its end itself.)
            result: tuple[Any, Any] = self.block("with_call", request, timeout, *arguments)
            return result
        call = hedging.run(self, request, timeout, *arguments)
        return call.result(), call

    def stream(self, request: Any, timeout: float | None, *arguments: Any) -> Any:
        """Start a server stream that may begin anew, and return its call."""
        return RetriedStream(self, request, timeout, *arguments)

    def came_late(self, error: BaseException, member: Member, metadata: Any) -> bool:
        """Say whether an RPC was not sent, because its member's channel was closed first, and can begin elsewhere.

        That is with the pool, which then says so, or because `drain_timeout` was over.
        """
        # What grpc raises then has no type of its own.
        late = isinstance(error, ValueError) and not isinstance(error, (PoolError, grpc.RpcError)) and member.closed
        return late and can_repeat(metadata)

    def is_refused(self, error: BaseException, metadata: Any) -> bool:
        """Say whether the server refused to look at an RPC that can be sent again."""
        if not self._line.resends or code_of(error) is not UNAVAILABLE:
            return False
        # What a stream of requests has given is gone, and so is metadata that can be read only once.
        again = self.timed and can_repeat(metadata)
        return again and refused(UNAVAILABLE, getattr(error, "details", _nothing)())

    def resend(
        self, refusal: grpc.RpcError, call: Callable[..., Any], request: Any, timeout: float | None, *arguments: Any
    ) -> Any:
        """Run a blocking RPC that was refused, again and again if need be, and return its result.

        It keeps its lease while it rests: so the server, which has too much to do, gets less from here meanwhile.

        Arguments:
            refusal: what it ended with.
            call: the way it was called.
        """
        try:
            for number in range(1, RESENDS + 1):
                started = monotonic()
                sleep(rest(number, timeout))
                self._line.resent()
                timeout = left(timeout, started)
                started = monotonic()
                try:
                    return call(request, timeout, *arguments)
                except grpc.RpcError as error:
                    if not self.is_refused(error, arguments[0]):
                        raise
                    refusal = error
                except ValueError as error:
                    # The channel was closed while this rested: with the pool, or because drain_timeout was over.
                    raise refusal from error
                timeout = left(timeout, started)
            raise refusal
        finally:
            # As in `again`.
            del refusal

    def launch(self, how: str, request: Any, timeout: float | None, *arguments: Any) -> Any:
        """Start an RPC by the multicallable's method `how`, and return its call; the lease ends when the call does."""
        return self.start(Lease(self.timed), self.source.attempt, how, request, timeout, *arguments)

    def start(self, lease: Lease, take: Take, how: str, request: Any, timeout: float | None, *arguments: Any) -> Any:
        """Start an RPC on the member that it gets a lease on."""
        call: Any = None
        started = monotonic()
        try:
            if not take(lease):
                timeout, started = self._line.wait(lease, timeout), monotonic()
            member = lease.member
            multicallable = self.inner.get(member) or self.build(member)
            call = getattr(multicallable, how)(request, timeout, *arguments)
            flight = InFlight(call, InFlight.abandoned)
            flight.member = member
            flight.method = self
            flight.started = lease.started
            lease.hand_over(flight)
        except BaseException as error:
            # TypeError: not one of grpc's calls (an interceptor may return anything) and nothing that can be watched.
            lease.cancel(monotonic())
            if isinstance(error, TypeError) and "weak reference" in str(error):
                return call
            if call is None and self.came_late(error, lease.member, arguments[0]):
                return self.start(lease, take, how, request, left(timeout, started), *arguments)
            raise
        subscribe = getattr(call, "add_callback", None)
        if subscribe is not None and not subscribe(flight.ended if self._line.teller is None else self._noting(flight)):
            flight.ended()
        return call

    def _noting(self, flight: InFlight) -> Callable[[], None]:
        teller, beginner = self._line.teller, get_ident()
        assert teller is not None

        def ended() -> None:
            # The first of all callbacks, so those that come after it find this said. (With an experimental option, the
            # thread that reads a stream tells itself.)
            if get_ident() != beginner:
                teller.is_this = True
            flight.ended()

        return ended


def _nothing() -> None:
    return None


def _end_of(error: Any) -> tuple[grpc.StatusCode | None, str | None, Any]:
    """Return the status, the details and the trailing metadata of an RPC that failed."""
    return code_of(error), getattr(error, "details", _nothing)(), getattr(error, "trailing_metadata", _nothing)()
