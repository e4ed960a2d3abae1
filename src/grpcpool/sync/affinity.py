"""Channels whose RPCs bring their affinity keys along in their metadata."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from ..core.affinity import KeyedSource, announced
from ..core.member import Member
from ..core.norm import Norms
from ..core.pinned import Pinned
from ..failover import Failover
from .channel import Connectivity, CountedChannel
from .line import Line
from .method import Method, MethodKey
from .multicallables import HedgedUnaryUnary, UnaryUnary

if TYPE_CHECKING:
    from ..core.engine import Engine

__all__ = ["KeyedChannel"]


class KeyedChannel(CountedChannel):
    """A counted channel on which the value of `header` in an RPC's metadata is the RPC's affinity key."""

    def __init__(
        self,
        header: str,
        source: Engine | Pinned,
        line: Line,
        norms: Norms,
        suspect: Callable[[Member], object],
        failover: Failover,
        connectivity: Connectivity,
    ) -> None:
        super().__init__(KeyedSource(source), line, norms, suspect, failover, connectivity)
        self.header = header

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnary | HedgedUnaryUnary:
        """Return the multicallable of a unary method."""
        key = ("unary_unary", method, request_serializer, response_deserializer, bool(_registered_method))
        return self._callable(self._keyed_unary_unary, key)

    def _keyed_unary_unary(self, method: Method) -> UnaryUnary | HedgedUnaryUnary:
        return KeyedUnaryUnary(method) if method.plan.hedge_after is None else HedgedUnaryUnary(method)

    def _method(self, key: MethodKey) -> KeyedMethod:
        return KeyedMethod(self, key)


class KeyedMethod(Method):
    """One RPC method on a keyed channel."""

    __slots__ = ("_header",)

    def __init__(self, channel: KeyedChannel, key: MethodKey) -> None:
        super().__init__(channel, key)
        self._header = channel.header

    def block(self, how: str, request: Any, timeout: float | None, *arguments: Any) -> Any:
        """Run a blocking RPC, which is picked for by its key, and return its result."""
        metadata, *rest = arguments
        with announced(self._header, metadata) as metadata:
            return super().block(how, request, timeout, metadata, *rest)

    def launch(self, how: str, request: Any, timeout: float | None, *arguments: Any) -> Any:
        """Start an RPC, which is picked for by its key, and return its call."""
        metadata, *rest = arguments
        with announced(self._header, metadata) as metadata:
            return super().launch(how, request, timeout, metadata, *rest)

    def hedge(self, request: Any, timeout: float | None, *arguments: Any) -> Any:
        """Run a blocking RPC of which a second copy may be sent, both picked for by its key, and return its call."""
        metadata, *rest = arguments
        with announced(self._header, metadata) as metadata:
            return super().hedge(request, timeout, metadata, *rest)

    def stream(self, request: Any, timeout: float | None, *arguments: Any) -> Any:
        """Start a server stream that may begin anew, and is picked for by its key, and return its call."""
        metadata, *rest = arguments
        with announced(self._header, metadata) as metadata:
            return super().stream(request, timeout, metadata, *rest)


class KeyedUnaryUnary(UnaryUnary):
    """A unary method of the pool. Same contract as grpc's."""

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
        # By the method, as all others, where the base class takes a short cut.
        return self._method.block("__call__", request, timeout, metadata, credentials, wait_for_ready, compression)
