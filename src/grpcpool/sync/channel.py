"""Channels whose RPCs are counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc

from ..core.member import Member
from ..core.norm import Norms
from ..failover import Failover
from .line import Line
from .method import Method, MethodKey, Source
from .multicallables import (
    HedgedUnaryUnary,
    RetriedUnaryStream,
    StreamStream,
    StreamUnary,
    UnaryStream,
    UnaryUnary,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CountedChannel"]

# Multicallables kept for reuse, per channel. Generated stubs need one per method, once. But `grpc.intercept_channel`
# asks for one on every call, and some programs make stubs as they go; with new lambdas as serializers each of those is
# another one, and they must not pile up.
REMEMBERED = 1024

_MultiCallable = TypeVar("_MultiCallable")


class Connectivity(Protocol):
    """Tells of the connectivity of something, as a `grpc.Channel` does."""

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None: ...

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None: ...


class CountedChannel(grpc.Channel):
    """A channel on which every RPC takes a lease on a member and gives it back when it ends.

    Thread-safe. `subscribe` speaks for the channel given; `close` does nothing, for the channels belong to the pool.

    Arguments:
        source: knows the member that shall serve the next RPC.
        line: where an RPC waits if every member is full.
        norms: of the methods of the whole pool.
        suspect: told of a member on which an RPC ended UNAVAILABLE.
        failover: what is done for RPCs that fail.
        connectivity: what `subscribe` is passed on to.
    """

    def __init__(
        self,
        source: Source,
        line: Line,
        norms: Norms,
        suspect: Callable[[Member], object],
        failover: Failover,
        connectivity: Connectivity,
    ) -> None:
        self.source = source
        self.line = line
        self.norms = norms
        self.suspect = suspect
        self.failover = failover
        self._connectivity = connectivity
        self._callables: dict[MethodKey, Any] = {}

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnary | HedgedUnaryUnary:
        """Return the multicallable of a unary method."""
        key = ("unary_unary", method, request_serializer, response_deserializer, bool(_registered_method))
        return self._callable(self._unary_unary, key)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> UnaryStream | RetriedUnaryStream:
        """Return the multicallable of a server-streaming method."""
        key = ("unary_stream", method, request_serializer, response_deserializer, bool(_registered_method))
        return self._callable(self._unary_stream, key)

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

    def _callable(self, kind: Callable[[Method], _MultiCallable], key: MethodKey) -> _MultiCallable:
        try:
            found: _MultiCallable = self._callables[key]
            return found
        except KeyError:
            pass
        except TypeError:
            # A serializer that cannot be hashed: nothing to remember it by.
            return kind(self._method(key))
        with self.line.building:
            made: _MultiCallable = self._callables.setdefault(key, kind(self._method(key)))
            if len(self._callables) > REMEMBERED:
                del self._callables[next(iter(self._callables))]
            return made

    def _unary_unary(self, method: Method) -> UnaryUnary | HedgedUnaryUnary:
        return UnaryUnary(method) if method.plan.hedge_after is None else HedgedUnaryUnary(method)

    def _unary_stream(self, method: Method) -> UnaryStream | RetriedUnaryStream:
        return RetriedUnaryStream(method) if method.plan.attempts > 1 else UnaryStream(method)

    def _method(self, key: MethodKey) -> Method:
        return Method(self, key)
