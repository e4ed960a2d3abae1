"""Errors of the sync room: the pool's own, as grpc would raise them."""

from __future__ import annotations

import grpc

from .. import errors

__all__ = ["RpcNotConnected", "RpcPoolFull", "RpcPoolTimeout", "RpcWaitClosed"]


class RpcNotConnected(errors.NotConnected, grpc.RpcError):
    """No member has even a channel that an RPC could be tried on; to ``except grpc.RpcError`` it is UNAVAILABLE."""

    def code(self) -> grpc.StatusCode:
        """Return UNAVAILABLE, as grpc does when it cannot connect."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Return the message."""
        return str(self)


class RpcPoolFull(errors.PoolFull, grpc.RpcError):
    """Every member is full, and so is the line; to ``except grpc.RpcError`` it is RESOURCE_EXHAUSTED."""

    def code(self) -> grpc.StatusCode:
        """Return RESOURCE_EXHAUSTED."""
        return grpc.StatusCode.RESOURCE_EXHAUSTED

    def details(self) -> str:
        """Return the message."""
        return str(self)


class RpcPoolTimeout(errors.PoolTimeout, grpc.RpcError):
    """The RPC waited in the pool for too long; to ``except grpc.RpcError`` it is DEADLINE_EXCEEDED."""

    def code(self) -> grpc.StatusCode:
        """Return DEADLINE_EXCEEDED."""
        return grpc.StatusCode.DEADLINE_EXCEEDED

    def details(self) -> str:
        """Return the message."""
        return str(self)


class RpcWaitClosed(errors.PoolClosed, grpc.RpcError):
    """The pool was closed while the RPC waited in it; to ``except grpc.RpcError`` it is CANCELLED, as by `close`."""

    def code(self) -> grpc.StatusCode:
        """Return CANCELLED."""
        return grpc.StatusCode.CANCELLED

    def details(self) -> str:
        """Return the message."""
        return str(self)
