"""The multicallables of counted channels, one class for each way of calling: they hand everything to their `Method`."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any

import grpc

from ..core.member import SMOOTHING
from ..inflight import finish
from ..outcome import code_of, left, verdict
from .method import Method

__all__ = [
    "HedgedUnaryUnary",
    "RetriedUnaryStream",
    "StreamStream",
    "StreamUnary",
    "UnaryStream",
    "UnaryUnary",
]


class UnaryUnary(grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """A unary method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
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
        # What `Method.block` does, written out: nine of ten calls come this way, and between two waits for the network
        # the caches are cold, so that each function and each object that need not be touched is worth microseconds.
        method = self._method
        member = method.source.generation.pick()
        token = member.count()
        started = monotonic()
        call = None
        # All of it within `try`, for Ctrl-C can strike after any step.
        try:
            leases = member.leases
            leases.add(token)
            if len(leases) > member.limit:
                # It left between the pick and the lease, or it is full.
                member.missed(token)
                return method.block("__call__", request, timeout, metadata, credentials, wait_for_ready, compression)
            observer = member.observer
            if observer is not None:
                observer.started(started, True)
            call = method.inner.get(member) or method.build(member)
            try:
                result = call(request, timeout, metadata, credentials, wait_for_ready, compression)
            except grpc.RpcError as error:
                if not method.is_refused(error, metadata):
                    raise
                more = (metadata, credentials, wait_for_ready, compression)
                result = method.resend(error, call, request, left(timeout, started), *more)
            now = monotonic()
            leases.remove(token)
            if member.limit <= 0:
                member.rest()
            latency, average = now - started, member.latency
            member.latency = latency if average is None else average + (latency - average) * SMOOTHING
            if observer is not None:
                norm = method.norm
                observer.answered(now, latency if norm.alone else norm.learn(latency))
        except BaseException as error:
            try:
                finish(method, member, token, started, verdict(code_of(error), error))
            finally:
                # Ctrl-C can strike in there too, and an error that is not of grpc's own making may not say its code.
                if token in member.leases:
                    member.dropped(token, monotonic(), 0.0)
            timeout = left(timeout, started)
            more = (metadata, credentials, wait_for_ready, compression)
            if method.came_late(error, member, metadata):
                return method.block("__call__", request, timeout, *more)
            if call is None or not isinstance(error, grpc.RpcError):
                raise
            return method.again(error, member, "__call__", request, timeout, *more)
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
        return self._method.block("with_call", request, timeout, metadata, credentials, wait_for_ready, compression)

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
        return self._method.launch("future", request, timeout, metadata, credentials, wait_for_ready, compression)


class HedgedUnaryUnary(grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """A unary method of the pool of whose calls a second copy may be sent. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
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
        return self._method.hedge(request, timeout, metadata, credentials, wait_for_ready, compression)[0]

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
        return self._method.hedge(request, timeout, metadata, credentials, wait_for_ready, compression)

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Invoke the method and return its call, which is a future, at once. No second copy is sent."""
        return self._method.launch("future", request, timeout, metadata, credentials, wait_for_ready, compression)


class RetriedUnaryStream(grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    """A server-streaming method of the pool whose calls may begin anew. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
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
        return self._method.stream(request, timeout, metadata, credentials, wait_for_ready, compression)


class UnaryStream(grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    """A server-streaming method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
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
        return self._method.launch("__call__", request, timeout, metadata, credentials, wait_for_ready, compression)


class StreamUnary(grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """A client-streaming method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
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
        return self._method.block(
            "__call__", request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )

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
        return self._method.block(
            "with_call", request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )

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
            "future", request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )


class StreamStream(grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """A bidirectional method of the pool. Same contract as grpc's."""

    def __init__(self, method: Method) -> None:
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
            "__call__", request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )
