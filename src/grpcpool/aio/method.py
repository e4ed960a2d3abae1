"""One method on a counted channel: where its RPCs begin, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from ..core.affinity import KeyedSource
from ..core.course import Plan
from ..core.generation import Generation
from ..core.lease import Lease
from ..core.member import Member
from ..core.pinned import Pinned
from ..failover import snapshot
from ..inflight import InFlight
from ..outcome import left
from .calls import code_of, when_done
from .clerk import Ticket
from .movable import MOVABLE
from .rescue import Sent, ended_or_refused

if TYPE_CHECKING:
    from .channel import CountedChannel

__all__ = ["Home", "Method", "MethodKey", "Source"]

# The kind of RPC, the method's name, the serializer, the deserializer, and whether the method is registered.
MethodKey = tuple[str, str, Any, Any, bool]

# Looked up once.
_abandoned = InFlight.abandoned


class Source(Protocol):
    """Where a channel's RPCs get their members from: an `Engine`, or one member of it."""

    @property
    def generation(self) -> Generation | Pinned | KeyedSource:
        """What has the `pick` that is to be called now."""
        ...

    def attempt(self, lease: Lease, member: Member | None = None) -> bool:
        """Take the lease on a member, if that was picked, or on another one if it is full; False if all are full."""
        ...

    def elsewhere(self, lease: Lease, tried: Collection[Member], *, only: bool = False) -> bool:
        """Take the lease on a member that is not among `tried`, if there is one; else as `attempt`, unless `only`."""
        ...

    def spare(self, tried: Collection[Member] = ()) -> Member | None:
        """Return a member that has room at this moment and is not among `tried`, or None."""
        ...


class Home(Protocol):
    """The loop that a channel belongs to."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop; None before the first use."""
        ...

    def bind(self) -> asyncio.AbstractEventLoop:
        """Return the loop, which is the one that runs now if there was none yet; raise if it is another one."""
        ...


class Method:
    """One RPC method on a counted channel: where its calls start and how they end.

    Keeps the multicallable of every member that has served the method, so that each is built once.

    Attributes:
        source: knows the member that shall serve the next call.
        failover, plan: what is done for RPCs that fail.
        name: as it is known to the server.
        norm, suspect, timed: see `inflight.Method`.
    """

    __slots__ = (
        "__weakref__",
        "_home",
        "_inner",
        "_keep",
        "_key",
        "_keyed",
        "_line",
        "_movable",
        "_slow",
        "_suspect",
        "failover",
        "name",
        "norm",
        "plan",
        "source",
        "timed",
    )

    def __init__(self, channel: CountedChannel, key: MethodKey) -> None:
        self.norm = channel.norms.of(key[1])
        self._suspect = channel.suspect
        self.timed = key[0] == "unary_unary"
        self.name = key[1]
        self.failover = channel.failover
        self.plan: Plan = channel.failover.plan(self.name, unary=self.timed, streamed=key[0] == "unary_stream")
        self._movable = self.timed and self.plan.failover
        self._keyed = channel.failover.keyed
        self.source = channel.source
        self._line = channel.line
        self._slow: Any = None
        self._home = channel.home
        # Stubs often outlive the name of the channel they were made from; it must not be collected beneath them.
        self._keep = channel
        self._key = key
        self._inner: dict[Member, Any] = {}
        channel.methods.add(self)

    def _multicallable(self, member: Member) -> Any:
        return self._inner.get(member) or self._build(member)

    def _build(self, member: Member) -> Any:
        kind, method, serializer, deserializer, registered = self._key
        # Passed only where it matters, because a channel that somebody put in place of grpc's may not know it.
        extra = {"_registered_method": True} if registered else {}
        inner = getattr(member.channel, kind)(method, serializer, deserializer, **extra)
        for gone in [other for other in self._inner if other.retired]:
            del self._inner[gone]
        self._inner[member] = inner
        return inner

    code_of = staticmethod(code_of)

    def suspect(self, member: Member) -> None:
        """Have a look taken at a member on which an RPC ended UNAVAILABLE."""
        self._suspect(member)

    def launch(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        """Start an RPC and return its call; it is in flight until the call ends."""
        # What `bind` does, for the case that all is well.
        if asyncio._get_running_loop() is not self._home.loop:
            self._home.bind()
        # Nothing else runs on this loop until the call is out, so what is picked cannot leave meanwhile.
        member = self.source.generation.pick()
        leases = member.leases
        wary = False
        if len(leases) >= member.half:
            # Retired, it cannot be; but full, or half full.
            metadata = snapshot(metadata)
            other = self._with_room(member)
            if other is None:
                return self._wait(
                    member,
                    request,
                    timeout=timeout,
                    metadata=metadata,
                    credentials=credentials,
                    wait_for_ready=wait_for_ready,
                    compression=compression,
                )
            member, leases, wary = other, other.leases, self.timed
        started = monotonic()
        multicallable = self._inner.get(member) or self._build(member)
        call = multicallable(
            request,
            timeout=timeout,
            metadata=metadata,
            credentials=credentials,
            wait_for_ready=wait_for_ready,
            compression=compression,
        )
        flight = InFlight(call, _abandoned)
        flight.member = member
        flight.method = self
        flight.started = started
        # What `Member.begin` and `when_done` do, written out: between two waits for the network the caches are cold, so
        # that each function that need not be touched is worth a microsecond.
        member.count()
        leases.add(flight)
        if member.observer is not None:
            member.observer.started(started, self.timed)
        ended: Callable[[], None] = flight.ended
        if self._movable or wary:
            kind = MOVABLE[call.__class__]
            if kind is not None:
                context = copy_context() if self._keyed else None
                sent = flight, request, timeout, metadata, credentials, wait_for_ready, compression, context
                if self._movable:
                    # First: Python keeps the attributes of an object in a dictionary once its class was changed.
                    call._grpcpool_sent = sent
                call.__class__ = kind
                if wary:
                    ended = partial(ended_or_refused, sent)
        try:
            inner = call._cython_call
        except AttributeError:
            inner = None
        if inner is None or metadata is not None:
            when_done(call, ended)
        else:
            inner.add_done_callback(ended)
        return call

    def careful(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        """Start an RPC that may be sent more than once, and return its call."""
        if asyncio._get_running_loop() is not self._home.loop:
            self._home.bind()
        # A member is picked when the call's task takes the lease there: each call that starts in this turn of the loop
        # is to see the others. But a pool that is closed says so here and now, and one that is not open yet opens.
        generation = self.source.generation
        if not generation.eligible:
            generation.pick()
        return self._wait(
            None,
            request,
            timeout=timeout,
            metadata=snapshot(metadata),
            credentials=credentials,
            wait_for_ready=wait_for_ready,
            compression=compression,
        )

    def move(self, tried: Collection[Member], sent: Sent, timeout: float | None) -> Any:
        """Send an RPC to a member that it was not sent to, and return its call; None if all of them are full."""
        _, request, _, metadata, credentials, wait_for_ready, compression, context = sent
        lease = Lease(self.timed)
        take = self.source.elsewhere
        # The key is that of the moment in which the RPC was begun, wherever it is awaited.
        if not (take(lease, tried) if context is None else context.run(take, lease, tried)):
            return None
        try:
            call = self.call(
                lease.member,
                request,
                timeout=timeout,
                metadata=metadata,
                credentials=credentials,
                wait_for_ready=wait_for_ready,
                compression=compression,
            )
            return self.follow(lease, call)
        except BaseException:
            lease.cancel(monotonic())
            raise

    def resume(self, sent: Sent) -> Any:
        """Have an RPC that a server has refused go on on the slow lane, and return its call there.

        It keeps its lease, so the server gets less from here while it rests.
        """
        flight, request, timeout, metadata, credentials, wait_for_ready, compression, _ = sent
        lease = Lease(self.timed)
        lease.take_over(flight)
        try:
            call = self._wait(
                None,
                request,
                lease,
                timeout=left(timeout, flight.started),
                metadata=metadata,
                credentials=credentials,
                wait_for_ready=wait_for_ready,
                compression=compression,
            )
            # If it is cancelled before its first step, nobody else gives the lease back.
            call.add_done_callback(lambda _: lease.cancel(monotonic()))
            return call
        except BaseException:
            lease.cancel(monotonic())
            raise

    def _with_room(self, member: Member) -> Member | None:
        """Return where an RPC can go that was picked for a member with not so much room; None: to the slow lane.

        From half of the limit on a server may refuse a unary RPC: busy, it counts many streams that have ended. Half of
        all was never seen. Such an RPC is sent again, on the slow lane. It begins there if it cannot go there later:
        with interceptors the call that its caller has is not the one that is refused.
        """
        found = member if len(member.leases) < member.limit else self.source.spare()
        # That is grpc's own name for them.
        if self.timed and found is not None and getattr(self._multicallable(found), "_interceptors", True):
            return None
        return found

    def _wait(self, member: Member | None, request: Any, lease: Lease | None = None, **arguments: Any) -> Any:
        """Return a call that waits until a member has room: preferably this one, if one was picked.

        Arguments:
            lease: the one that it has already, if it has.
        """
        if self._slow is None or self._slow[0] is not self._line.life:
            kind, *rest = self._key
            self._slow = self._line.life, self._line.multicallable(kind, *rest[:3])
        return self._line.launch(Ticket(self, member, lease), self._slow[1], request, **arguments)

    def forget(self) -> None:
        """Let go of what was made on channels that are of no use any more."""
        self._inner.clear()
        self._slow = None

    def call(self, member: Member, request: Any, **arguments: Any) -> Any:
        """Start an RPC that has a lease on the member, and return its call."""
        return self._multicallable(member)(request, **arguments)

    def follow(self, lease: Lease, call: Any) -> Any:
        """Have the lease end with the call, and return that."""
        flight = InFlight(call, _abandoned)
        flight.member = lease.member
        flight.method = self
        flight.started = lease.started
        lease.hand_over(flight)
        when_done(call, flight.ended)
        return call
