"""The multicallables of counted channels: where RPCs begin, and how they end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from ..core.affinity import KeyedSource
from ..core.generation import Generation
from ..core.lease import NOBODY, Lease
from ..core.member import SMOOTHING, Member
from ..core.pinned import Pinned
from ..inflight import InFlight, finish
from ..outcome import RESENDS, UNAVAILABLE, code_of, left, refused, rest

if TYPE_CHECKING:
    from .channel import CountedChannel

__all__ = ["Method", "MethodKey", "Source", "StreamStream", "StreamUnary", "UnaryStream", "UnaryUnary"]

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


class Method:
    """One RPC method on a counted channel: where its calls start and how they end.

    Attributes:
        source: knows the member that shall serve the next call.
        inner: the multicallable of every member that has served the method, so that each is built once.
        norm, suspect, timed: see `inflight.Method`.
    """

    __slots__ = ("_keep", "_key", "_line", "_lock", "_suspect", "inner", "norm", "source", "timed")

    def __init__(self, channel: CountedChannel, key: MethodKey) -> None:
        self.source = channel.source
        self._line = channel.line
        self.inner: dict[Member, Any] = {}
        self.norm = channel.norms.of(key[1])
        self._suspect = channel.suspect
        self.timed = key[0] == "unary_unary"
        # Stubs often outlive the name of the channel they were made from; it must not be collected beneath them.
        self._keep = channel
        self._key = key
        self._lock = threading.RLock()

    def build(self, member: Member) -> Any:
        """Build the member's multicallable."""
        # grpc's registration of methods is not thread-safe, so members' multicallables are built under a lock.
        with self._lock:
            inner = self.inner.get(member)
            if inner is None:
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
        code: grpc.StatusCode | None = getattr(call, "code", _nothing)()
        return code

    def suspect(self, member: Member) -> None:
        """Have a look taken at a member on which an RPC ended UNAVAILABLE."""
        self._suspect(member)

    def block(self, how: str, request: Any, timeout: float | None, *arguments: Any) -> Any:
        """Run a blocking RPC by the multicallable's method `how`, and return its result."""
        lease = Lease(self.timed)
        # All of it within `try`, for Ctrl-C can strike after any step.
        try:
            if not self.source.attempt(lease):
                timeout = self._line.wait(lease, timeout)
            call = getattr(self.inner.get(lease.member) or self.build(lease.member), how)
            started = monotonic()
            try:
                result = call(request, timeout, *arguments)
            except grpc.RpcError as error:
                if not self.is_refused(error, arguments[0]):
                    raise
                result = self.resend(error, call, request, left(timeout, started), *arguments)
            now = monotonic()
            lease.member.answered(lease, now, now - lease.started if self.timed else None, self.norm)
        except BaseException as error:
            # As in `UnaryUnary.__call__`.
            try:
                if lease.member is not NOBODY:
                    finish(self, lease.member, lease, lease.started, code_of(error))
            finally:
                lease.cancel(monotonic())
            raise
        return result

    def is_refused(self, error: BaseException, metadata: Any) -> bool:
        """Say whether the server refused to look at an RPC that can be sent again."""
        if not self._line.resends or code_of(error) is not UNAVAILABLE:
            return False
        # What a stream of requests has given is gone, and so is metadata that can be read only once.
        again = self.timed and (metadata is None or isinstance(metadata, Collection))
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

    def launch(self, how: str, request: Any, timeout: float | None, *arguments: Any) -> Any:
        """Start an RPC by the multicallable's method `how`, and return its call; the lease ends when the call does."""
        lease = Lease(self.timed)
        call: Any = None
        try:
            if not self.source.attempt(lease):
                timeout = self._line.wait(lease, timeout)
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
            raise
        subscribe = getattr(call, "add_callback", None)
        if subscribe is not None and not subscribe(flight.ended):
            flight.ended()
        return call


def _nothing() -> None:
    return None


class UnaryUnary(grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """A unary method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method and block until it has ended."""
        # What `Method.block` does, written out: nine of ten calls come this way, and between two waits for the network
        # the caches are cold, so that each function and each object that need not be touched is worth microseconds.
        method = self._method
        member = method.source.generation.pick()
        token = member.count()
        started = monotonic()
        # All of it within `try`, for Ctrl-C can strike after any step.
        try:
            leases = member.leases
            leases.add(token)
            if len(leases) > member.limit:
                # It left between the pick and the lease, or it is full.
                member.missed(token)
                return method.block("__call__", request, timeout, metadata, credentials, wait_for_ready, compression)
            observer = member.observer
            if observer is not None:
                observer.started(started, True)
            call = method.inner.get(member) or method.build(member)
            try:
                result = call(request, timeout, metadata, credentials, wait_for_ready, compression)
            except grpc.RpcError as error:
                if not method.is_refused(error, metadata):
                    raise
                timeout = left(timeout, started)
                more = (metadata, credentials, wait_for_ready, compression)
                result = method.resend(error, call, request, timeout, *more)
            now = monotonic()
            leases.remove(token)
            if member.limit <= 0:
                member.rest()
            latency, average = now - started, member.latency
            member.latency = latency if average is None else average + (latency - average) * SMOOTHING
            if observer is not None:
                norm = method.norm
                observer.answered(now, latency if norm.alone else norm.learn(latency))
        except BaseException as error:
            try:
                finish(method, member, token, started, code_of(error))
            finally:
                # Ctrl-C can strike in there too, and an error that is not of grpc's own making may not say its code.
                if token in member.leases:
                    member.dropped(token, monotonic(), 0.0)
            raise
        return result

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method, block until it has ended, and return the response with the call."""
        return self._method.block("with_call", request, timeout, metadata, credentials, wait_for_ready, compression)

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method and return its call, which is a future, at once."""
        return self._method.launch("future", request, timeout, metadata, credentials, wait_for_ready, compression)


class UnaryStream(grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    """A server-streaming method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method and return its call, an iterator of responses, at once."""
        return self._method.launch("__call__", request, timeout, metadata, credentials, wait_for_ready, compression)


class StreamUnary(grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """A client-streaming method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method and block until it has ended."""
        return self._method.block(
            "__call__", request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )

    def with_call(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method, block until it has ended, and return the response with the call."""
        return self._method.block(
            "with_call", request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )

    def future(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method and return its call, which is a future, at once."""
        return self._method.launch(
            "future", request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )


class StreamStream(grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """A bidirectional method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method and return its call, an iterator of responses, at once."""
        return self._method.launch(
            "__call__", request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )
