"""Errors of the aio room: the pool's own, as grpc.aio would raise them."""

from __future__ import annotations

import grpc

from .. import errors

__all__ = ["AioLost", "AioNotConnected", "AioPoolClosed", "AioPoolFull", "AioPoolTimeout", "AioWaitClosed", "WrongLoop"]


class AioNotConnected(errors.NotConnected, grpc.aio.AioRpcError):
    """No member has even a channel that an RPC could be tried on; to ``except AioRpcError`` it is UNAVAILABLE."""

    def __init__(self, message: str) -> None:
        grpc.aio.AioRpcError.__init__(self, grpc.StatusCode.UNAVAILABLE, details=message)

    def __str__(self) -> str:
        return self.details() or ""


class AioPoolFull(errors.PoolFull, grpc.aio.AioRpcError):
    """Every member is full, and so is the line; to ``except AioRpcError`` it is RESOURCE_EXHAUSTED."""

    def __init__(self, message: str) -> None:
        grpc.aio.AioRpcError.__init__(self, grpc.StatusCode.RESOURCE_EXHAUSTED, details=message)

    def __str__(self) -> str:
        return self.details() or ""


class AioPoolTimeout(errors.PoolTimeout, grpc.aio.AioRpcError):
    """The RPC waited in the pool for too long; to ``except AioRpcError`` it is DEADLINE_EXCEEDED."""

    def __init__(self, message: str) -> None:
        grpc.aio.AioRpcError.__init__(self, grpc.StatusCode.DEADLINE_EXCEEDED, details=message)

    def __str__(self) -> str:
        return self.details() or ""


class AioWaitClosed(errors.PoolClosed, grpc.aio.AioRpcError):
    """The pool was closed while the RPC waited in it; to ``except AioRpcError`` it is CANCELLED, as by `close`."""

    def __init__(self, message: str) -> None:
        grpc.aio.AioRpcError.__init__(self, grpc.StatusCode.CANCELLED, details=message)

    def __str__(self) -> str:
        return self.details() or ""


class AioPoolClosed(errors.PoolClosed, grpc.aio.UsageError):
    """The pool was closed; to ``except grpc.aio.UsageError`` it is one, as with a closed channel of grpc's."""


class AioLost(errors.PoolError, grpc.aio.UsageError):
    """grpc.aio cannot work in this process, because it was at work in the one that this was forked from."""


class WrongLoop(errors.PoolError, grpc.aio.UsageError):
    """An aio pool belongs to the loop it was first used on, and was used on another one, or on none."""
