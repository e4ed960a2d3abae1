"""Errors of the aio room: the pool's own, as grpc.aio would raise them."""

from __future__ import annotations

import grpc

from .. import errors

__all__ = ["AioNotConnected", "AioPoolClosed", "WrongLoop"]


class AioNotConnected(errors.NotConnected, grpc.aio.AioRpcError):
    """No member has even a channel that an RPC could be tried on; to ``except AioRpcError`` it is UNAVAILABLE."""

    def __init__(self, message: str) -> None:
        grpc.aio.AioRpcError.__init__(self, grpc.StatusCode.UNAVAILABLE, details=message)

    def __str__(self) -> str:
        return self.details() or ""


class AioPoolClosed(errors.PoolClosed, grpc.aio.UsageError):
    """The pool was closed; to ``except grpc.aio.UsageError`` it is one, as with a closed channel of grpc's."""


class WrongLoop(errors.PoolError, grpc.aio.UsageError):
    """An aio pool belongs to the loop it was first used on, and was used on another one, or on none."""
