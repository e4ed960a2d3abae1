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
from .channel import CountedChannel
from .line import Line
from .method import Home, Method, MethodKey

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
        home: Home,
        connectivity: Any,
    ) -> None:
        super().__init__(KeyedSource(source), line, norms, suspect, failover, home, connectivity)
        self.header = header

    def _method(self, key: MethodKey) -> KeyedMethod:
        return KeyedMethod(self, key)


class KeyedMethod(Method):
    """One RPC method on a keyed channel."""

    __slots__ = ("_header",)

    def __init__(self, channel: KeyedChannel, key: MethodKey) -> None:
        super().__init__(channel, key)
        self._header = channel.header

    def launch(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        """Start an RPC, which is picked for by its key, and return its call."""
        with announced(self._header, metadata) as metadata:
            return super().launch(request, timeout, metadata, credentials, wait_for_ready, compression)

    def careful(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        """Start an RPC that may be sent more than once, and is picked for by its key, and return its call."""
        with announced(self._header, metadata) as metadata:
            return super().careful(request, timeout, metadata, credentials, wait_for_ready, compression)
