"""Channels whose RPCs are counted, and their multicallables."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc

from ..core.lease import Lease
from ..core.member import Member

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CountedChannel"]

# Multicallables kept for reuse, per channel. Generated stubs need one per method, once. But `grpc.intercept_channel`
# asks for one on every call, and some programs make stubs as they go; with new lambdas as serializers each of those is
# another one, and they must not pile up.
REMEMBERED = 1024

_Key = tuple[str, str, Any, Any, bool]
_MultiCallable = TypeVar("_MultiCallable")


class Connectivity(Protocol):
    """Tells of the connectivity of something, as a `grpc.Channel` does."""

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None: ...

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None: ...


class CountedChannel(grpc.Channel):
    """A channel on which every RPC takes a lease on a member and gives it back when it ends.

    Thread-safe. `subscribe` speaks for the channel given; `close` does nothing, for the channels belong to the pool.

    Arguments:
        acquire: returns a lease on the member that shall serve the next RPC.
        suspect: told of a member on which an RPC ended UNAVAILABLE.
        connectivity: what `subscribe` is passed on to.
    """

    def __init__(
        self,
        acquire: Callable[[], Lease],
        suspect: Callable[[Member], object],
        connectivity: Connectivity,
    ) -> None:
        self._acquire = acquire
        self._suspect = suspect
        self._connectivity = connectivity
        self._callables: dict[_Key, Any] = {}
        self._lock = threading.RLock()

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnary:
        """Return the multicallable of a unary method."""
        key = ("unary_unary", method, request_serializer, response_deserializer, bool(_registered_method))
        return self._callable(UnaryUnary, key)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> UnaryStream:
        """Return the multicallable of a server-streaming method."""
        key = ("unary_stream", method, request_serializer, response_deserializer, bool(_registered_method))
        return self._callable(UnaryStream, key)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> StreamUnary:
        """Return the multicallable of a client-streaming method."""
        key = ("stream_unary", method, request_serializer, response_deserializer, bool(_registered_method))
        return self._callable(StreamUnary, key)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> StreamStream:
        """Return the multicallable of a bidirectional method."""
        key = ("stream_stream", method, request_serializer, response_deserializer, bool(_registered_method))
        return self._callable(StreamStream, key)

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False
    ) -> None:
        """Subscribe to the connectivity of the member, as `grpc.Channel.subscribe` does."""
        self._connectivity.subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Take a subscription back."""
        self._connectivity.unsubscribe(callback)

    def close(self) -> None:
        """Do nothing: the pool closes its channels."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def _callable(self, kind: Callable[[_Method], _MultiCallable], key: _Key) -> _MultiCallable:
        try:
            found: _MultiCallable = self._callables[key]
            return found
        except KeyError:
            pass
        except TypeError:
            # A serializer that cannot be hashed: nothing to remember it by.
            return kind(_Method(self, key))
        with self._lock:
            made: _MultiCallable = self._callables.setdefault(key, kind(_Method(self, key)))
            if len(self._callables) > REMEMBERED:
                del self._callables[next(iter(self._callables))]
            return made


class _Method:
    """One RPC method on a counted channel: where its calls start and how they end.

    Attributes:
        acquire: returns a lease on the member that shall serve the next call.
        inner: the multicallable of every member that has served the method, so that each is built once.
    """

    __slots__ = ("_keep", "_key", "_lock", "_suspect", "acquire", "inner")

    def __init__(self, channel: CountedChannel, key: _Key) -> None:
        self.acquire = channel._acquire
        self.inner: dict[Member, Any] = {}
        self._suspect = channel._suspect
        # Stubs often outlive the name of the channel they were made from; it must not be collected beneath them.
        self._keep = channel
        self._key = key
        self._lock = threading.RLock()

    def build(self, lease: Lease) -> Any:
        """Build the multicallable of the lease's member; if that fails the lease ends."""
        member = lease.member
        try:
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
        except BaseException:
            lease.release()
            raise

    def failed(self, lease: Lease, error: BaseException) -> None:
        """End the lease of a blocking RPC that raised."""
        self.ended(lease, error.code() if isinstance(error, grpc.RpcError) and hasattr(error, "code") else None)

    def ended(self, lease: Lease, code: grpc.StatusCode | None, latency: float | None = None) -> None:
        """End the lease of an RPC that ended with this status, or None if it never had one."""
        if code is grpc.StatusCode.OK:
            lease.succeed(latency)
        elif code is None or code is grpc.StatusCode.CANCELLED:
            lease.release()
        else:
            lease.fail()
            if code is grpc.StatusCode.UNAVAILABLE:
                self._suspect(lease.member)

    def launch(self, how: str, timed: bool, request: Any, *arguments: Any) -> Any:
        """Start an RPC by the multicallable's method `how`, and return its call; the lease ends when the call does.

        The call object must not be kept alive by what watches it: a stream that its user drops is cancelled by its own
        destructor. And that may be the last that is heard of it, so its death is watched as well.
        """
        lease = self.acquire()
        multicallable = self.inner.get(lease.member) or self.build(lease)
        call: Any = None
        try:
            call = getattr(multicallable, how)(request, *arguments)
            lease.watch = reference = weakref.ref(call, lambda _: lease.release())
        except BaseException as error:
            # TypeError: not one of grpc's calls (an interceptor may return anything) and nothing that can be watched.
            lease.release()
            if isinstance(error, TypeError) and "weak reference" in str(error):
                return call
            raise

        def ended() -> None:
            alive = reference()
            latency = time.monotonic() - lease.started if timed else None
            # Dead, or an object without a status: over all the same.
            self.ended(lease, getattr(alive, "code", _nothing)(), latency)

        subscribe = getattr(call, "add_callback", None)
        if subscribe is not None and not subscribe(ended):
            ended()
        return call


def _nothing() -> None:
    return None


class UnaryUnary(grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """A unary method of the pool. Same contract as grpc's."""

    def __init__(self, method: _Method) -> None:
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
        method = self._method
        lease = method.acquire()
        call = method.inner.get(lease.member) or method.build(lease)
        try:
            result = call(request, timeout, metadata, credentials, wait_for_ready, compression)
        except BaseException as error:
            method.failed(lease, error)
            raise
        lease.succeed(time.monotonic() - lease.started)
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
        method = self._method
        lease = method.acquire()
        call = method.inner.get(lease.member) or method.build(lease)
        try:
            result = call.with_call(request, timeout, metadata, credentials, wait_for_ready, compression)
        except BaseException as error:
            method.failed(lease, error)
            raise
        lease.succeed(time.monotonic() - lease.started)
        return result

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
        return self._method.launch("future", True, request, timeout, metadata, credentials, wait_for_ready, compression)


class UnaryStream(grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    """A server-streaming method of the pool. Same contract as grpc's."""

    def __init__(self, method: _Method) -> None:
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
        return self._method.launch(
            "__call__", False, request, timeout, metadata, credentials, wait_for_ready, compression
        )


class StreamUnary(grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """A client-streaming method of the pool. Same contract as grpc's."""

    def __init__(self, method: _Method) -> None:
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
        method = self._method
        lease = method.acquire()
        call = method.inner.get(lease.member) or method.build(lease)
        try:
            result = call(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)
        except BaseException as error:
            method.failed(lease, error)
            raise
        lease.succeed()
        return result

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
        method = self._method
        lease = method.acquire()
        call = method.inner.get(lease.member) or method.build(lease)
        try:
            result = call.with_call(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)
        except BaseException as error:
            method.failed(lease, error)
            raise
        lease.succeed()
        return result

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
            "future", False, request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )


class StreamStream(grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """A bidirectional method of the pool. Same contract as grpc's."""

    def __init__(self, method: _Method) -> None:
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
            "__call__", False, request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )
