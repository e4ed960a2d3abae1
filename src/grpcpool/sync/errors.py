"""Errors of the sync room: the pool's own, as grpc would raise them."""

from __future__ import annotations

import grpc

from .. import errors

__all__ = ["RpcNotConnected"]


class RpcNotConnected(errors.NotConnected, grpc.RpcError):
    """No member has even a channel that an RPC could be tried on; to ``except grpc.RpcError`` it is UNAVAILABLE."""

    def code(self) -> grpc.StatusCode:
        """Return UNAVAILABLE, as grpc does when it cannot connect."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Return the message."""
        return str(self)
