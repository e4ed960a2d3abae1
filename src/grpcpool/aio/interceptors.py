"""Interceptors by the kind of RPC, as grpc.aio keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc

from ..checks import type_of
from ..errors import ConfigTypeError

__all__ = ["KINDS", "for_members", "raised", "share", "sort"]


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, interceptor: Any) -> None:
        self._intercept = interceptor.intercept_unary_unary

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._intercept(continuation, client_call_details, request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, interceptor: Any) -> None:
        self._intercept = interceptor.intercept_unary_stream

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._intercept(continuation, client_call_details, request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, interceptor: Any) -> None:
        self._intercept = interceptor.intercept_stream_unary

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._intercept(continuation, client_call_details, request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, interceptor: Any) -> None:
        self._intercept = interceptor.intercept_stream_stream

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._intercept(continuation, client_call_details, request_iterator)


# In the order in which grpc.aio looks for them.
KINDS: dict[str, tuple[type[Any], type[Any]]] = {
    "unary_unary": (grpc.aio.UnaryUnaryClientInterceptor, _UnaryUnary),
    "unary_stream": (grpc.aio.UnaryStreamClientInterceptor, _UnaryStream),
    "stream_unary": (grpc.aio.StreamUnaryClientInterceptor, _StreamUnary),
    "stream_stream": (grpc.aio.StreamStreamClientInterceptor, _StreamStream),
}


def sort(interceptors: Iterable[Any]) -> dict[str, list[Any]]:
    """Return the interceptors of each kind of RPC, in order; one that implements several kinds is in several lists."""
    lists: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for interceptor in interceptors:
        kinds = [kind for kind, (base, _) in KINDS.items() if isinstance(interceptor, base)]
        if not kinds:
            raise ConfigTypeError("interceptors", type_of(interceptor), "grpc.aio client interceptors")
        for kind in kinds:
            lists[kind].append(interceptor)
    return lists


def for_members(lists: dict[str, list[Any]]) -> list[Any]:
    """Return what to pass to grpc.aio so that each interceptor serves every kind whose list it is in.

    grpc.aio registers an interceptor for the first kind that it implements, and for no other; so one that implements
    several is passed once for each, behind a wrapper that implements just that one.
    """
    passed: list[Any] = []
    for kind, (_, wrapper) in KINDS.items():
        for interceptor in lists[kind]:
            implemented = sum(isinstance(interceptor, base) for base, _ in KINDS.values())
            passed.append(interceptor if implemented == 1 else wrapper(interceptor))
    return passed


def share(lists: dict[str, list[Any]], channel: grpc.aio.Channel) -> None:
    """Let a member's channel work with the pool's own lists, so that what is appended to them later counts there too.

    Under the names below grpc.aio's channels keep theirs, which is private: where a channel has no such lists, or has
    more in them than it was given (instrumentation adds its own), it stays as it is.
    """
    names = {kind: f"_{kind}_interceptors" for kind in KINDS}
    theirs = {kind: getattr(channel, name, None) for kind, name in names.items()}
    if all(isinstance(found, list) and len(found) == len(lists[kind]) for kind, found in theirs.items()):
        for kind, name in names.items():
            setattr(channel, name, lists[kind])


def raised(call: Any) -> bool:
    """Say whether what a call ended with was raised by an interceptor, and so need not be about the call's own RPC.

    An interceptor may make other RPCs, after this one was answered, and let their errors pass. What such an error says
    about a server that has not looked at anything must not have this RPC sent again.
    """
    # grpc's own name for where interceptors run. Where it has none, there are no interceptors.
    task = getattr(call, "_interceptors_task", None)
    if not isinstance(task, asyncio.Task) or not task.done():
        return False
    return task.cancelled() or task.exception() is not None
