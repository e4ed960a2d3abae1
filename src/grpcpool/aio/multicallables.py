"""The multicallables of counted channels, one class for each way of calling: they hand everything to their `Method`."""

from __future__ import annotations

from typing import Any

import grpc

from .method import Method

__all__ = ["StreamStream", "StreamUnary", "UnaryStream", "UnaryUnary"]


class UnaryUnary(grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """A unary method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
        self._launch = method.careful if method.plan.careful else method.launch

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method and return its call at once."""
        return self._launch(request, timeout, metadata, credentials, wait_for_ready, compression)


class UnaryStream(grpc.aio.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    """A server-streaming method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
        self._launch = method.careful if method.plan.careful else method.launch

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method and return its call at once."""
        return self._launch(request, timeout, metadata, credentials, wait_for_ready, compression)


class StreamUnary(grpc.aio.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """A client-streaming method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
        self._launch = method.launch

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method and return its call at once."""
        return self._launch(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)


class StreamStream(grpc.aio.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """A bidirectional method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
        self._launch = method.launch

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method and return its call at once."""
        return self._launch(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)
