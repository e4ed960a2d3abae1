"""Channels whose RPCs are counted."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from ..core.member import Member
from ..core.norm import Norms
from ..failover import Failover
from .line import Line
from .method import Home, Method, MethodKey, Source
from .multicallables import StreamStream, StreamUnary, UnaryStream, UnaryUnary

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["CountedChannel"]

# Multicallables kept for reuse, per channel. Generated stubs need one per method, once. But some programs make stubs as
# they go; with new lambdas as serializers each of those is another one, and they must not pile up.
REMEMBERED = 1024

_MultiCallable = TypeVar("_MultiCallable")


class CountedChannel(grpc.aio.Channel):
    """A channel on which every RPC takes a lease on a member and gives it back when it ends.

    Connectivity is that of the channel given; `close` does nothing, for the channels belong to the pool.

    Arguments:
        source: knows the member that shall serve the next RPC.
        line: where an RPC waits if every member is full.
        norms: of the methods of the whole pool.
        suspect: told of a member on which an RPC ended UNAVAILABLE.
        failover: what is done for RPCs that fail.
        home: knows the loop.
        connectivity: the channel that is asked for connectivity.
    """

    def __init__(
        self,
        source: Source,
        line: Line,
        norms: Norms,
        suspect: Callable[[Member], object],
        failover: Failover,
        home: Home,
        connectivity: Any,
    ) -> None:
        self.source = source
        self.line = line
        self.norms = norms
        self.suspect = suspect
        self.failover = failover
        self.home = home
        self._connectivity = connectivity
        self._callables: dict[MethodKey, Any] = {}
        # All that live, remembered or not.
        self.methods: weakref.WeakSet[Method] = weakref.WeakSet()

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

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the connectivity, as `grpc.aio.Channel.get_state` does."""
        state: grpc.ChannelConnectivity = self._connectivity.get_state(try_to_connect)
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the connectivity differs from `last_observed_state`."""
        await self._connectivity.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the channel is READY."""
        await self._connectivity.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Do nothing: the pool closes its channels."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def forget(self) -> None:
        """Let go of what was made on members' channels that are of no use any more."""
        for method in list(self.methods):
            method.forget()

    def _callable(self, kind: Callable[[Method], _MultiCallable], key: MethodKey) -> _MultiCallable:
        try:
            found: _MultiCallable = self._callables[key]
            return found
        except KeyError:
            pass
        except TypeError:
            # A serializer that cannot be hashed: nothing to remember it by.
            return kind(self._method(key))
        made: _MultiCallable = self._callables.setdefault(key, kind(self._method(key)))
        if len(self._callables) > REMEMBERED:
            del self._callables[next(iter(self._callables))]
        return made

    def _method(self, key: MethodKey) -> Method:
        return Method(self, key)
