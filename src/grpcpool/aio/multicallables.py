"""The multicallables of counted channels: where RPCs begin, and how they end."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from ..core.affinity import KeyedSource
from ..core.generation import Generation
from ..core.lease import Lease
from ..core.member import Member
from ..core.pinned import Pinned
from ..inflight import InFlight
from .calls import code_of, when_done

if TYPE_CHECKING:
    from .channel import CountedChannel

__all__ = ["Home", "Method", "MethodKey", "Source", "StreamStream", "StreamUnary", "UnaryStream", "UnaryUnary"]

# The kind of RPC, the method's name, the serializer, the deserializer, and whether the method is registered.
MethodKey = tuple[str, str, Any, Any, bool]


class Source(Protocol):
    """Where a channel's RPCs get their members from: an `Engine`, or one member of it."""

    @property
    def generation(self) -> Generation | Pinned | KeyedSource:
        """What has the `pick` that is to be called now."""
        ...

    def attempt(self, lease: Lease, member: Member | None = None) -> bool:
        """Take the lease on a member, if that was picked, or on another one if it is full; False if all are full."""
        ...

    def spare(self) -> Member | None:
        """Return a member that has room at this moment, or None."""
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
        norm, suspect, timed: see `inflight.Method`.
    """

    __slots__ = ("_home", "_inner", "_keep", "_key", "_line", "_slow", "_suspect", "norm", "source", "timed")

    def __init__(self, channel: CountedChannel, key: MethodKey) -> None:
        self.norm = channel.norms.of(key[1])
        self._suspect = channel.suspect
        self.timed = key[0] == "unary_unary"
        self.source = channel.source
        self._line = channel.line
        self._slow: Any = None
        self._home = channel.home
        # Stubs often outlive the name of the channel they were made from; it must not be collected beneath them.
        self._keep = channel
        self._key = key
        self._inner: dict[Member, Any] = {}

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
        if len(member.leases) * 2 >= member.limit:
            # Retired, it cannot be; but full, or half full: see `_elsewhere`.
            other = self._elsewhere(member)
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
            member = other
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
        flight = InFlight(call, InFlight.abandoned)
        flight.member = member
        flight.method = self
        flight.started = started
        # What `Member.begin` and `when_done` do, written out: between two waits for the network the caches are cold, so
        # that each function that need not be touched is worth a microsecond.
        member.count()
        member.leases.add(flight)
        if member.observer is not None:
            member.observer.started(started, self.timed)
        inner = getattr(call, "_cython_call", None)
        if inner is None or metadata is not None:
            when_done(call, flight.ended)
        else:
            inner.add_done_callback(flight.ended)
        return call

    def _elsewhere(self, member: Member) -> Member | None:
        """Return where an RPC can go that was picked for a member with not so much room; None: to the slow lane.

        Unary RPCs take the slow lane from half of the limit on: there they are sent again if the server refuses them.
        A server that is busy counts many streams that have ended; half of all was never seen.
        """
        if self.timed:
            return None
        return member if len(member.leases) < member.limit else self.source.spare()

    def _wait(self, member: Member, request: Any, **arguments: Any) -> Any:
        """Return a call that waits until a member has room: preferably this one."""
        if self._slow is None:
            kind, *rest = self._key
            self._slow = self._line.multicallable(kind, *rest[:3])
        return self._line.launch(self, member, self._slow, request, **arguments)

    def call(self, member: Member, request: Any, timeout: float | None, details: grpc.aio.ClientCallDetails) -> Any:
        """Start an RPC that has a lease on the member, and return its call."""
        multicallable = self._inner.get(member) or self._build(member)
        return multicallable(
            request,
            timeout=timeout,
            metadata=details.metadata,
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )

    def start(self, lease: Lease, request: Any, timeout: float | None, details: grpc.aio.ClientCallDetails) -> Any:
        """Start an RPC whose turn it is, and return its call, which the lease ends with."""
        call = self.call(lease.member, request, timeout, details)
        flight = InFlight(call, InFlight.abandoned)
        flight.member = lease.member
        flight.method = self
        flight.started = lease.started
        lease.hand_over(flight)
        when_done(call, flight.ended)
        return call


class UnaryUnary(grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """A unary method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method and return its call at once."""
        return self._method.launch(request, timeout, metadata, credentials, wait_for_ready, compression)


class UnaryStream(grpc.aio.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    """A server-streaming method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method and return its call at once."""
        return self._method.launch(request, timeout, metadata, credentials, wait_for_ready, compression)


class StreamUnary(grpc.aio.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """A client-streaming method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method and return its call at once."""
        return self._method.launch(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)


class StreamStream(grpc.aio.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """A bidirectional method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method and return its call at once."""
        return self._method.launch(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)
