"""Calls of several kinds, for callers in threads and in tasks: each returns when it has ended, or raises."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from grpcpool.testing import ECHO

__all__ = ["Cut", "bidi", "bidi_aio", "stream", "stream_aio", "unary", "unary_aio"]

REQUEST = b"sixteen raw byte"
# Long enough for every call that is not lost.
TIMEOUT = 30.0
# Answers of a server stream, and seconds between them.
COUNT, GAP = 5, 0.1
METADATA = (("count", str(COUNT)), ("gap", str(GAP)))


class Cut(Exception):
    """A stream ended well, and too early."""


def unary(channel: Any) -> Callable[[], object]:
    """Return what makes a unary call, as a generated stub does."""
    method = channel.unary_unary(f"{ECHO}Unary", _registered_method=True)
    return functools.partial(method, REQUEST, timeout=TIMEOUT)


def unary_aio(channel: Any) -> Callable[[], Awaitable[object]]:
    """Return what makes a unary call."""
    method = channel.unary_unary(f"{ECHO}Unary", _registered_method=True)
    return functools.partial(method, REQUEST, timeout=TIMEOUT)


def stream(channel: Any) -> Callable[[], object]:
    """Return what makes a server-streaming call of `COUNT` answers, `GAP` seconds apart, and reads them all."""
    method = channel.unary_stream(f"{ECHO}ServerStream", _registered_method=True)

    def call() -> None:
        _check(sum(1 for _ in method(REQUEST, timeout=TIMEOUT, metadata=METADATA)))

    return call


def stream_aio(channel: Any) -> Callable[[], Awaitable[object]]:
    """Return what makes a server-streaming call, as `stream`."""
    method = channel.unary_stream(f"{ECHO}ServerStream", _registered_method=True)

    async def call() -> None:
        _check(len([None async for _ in method(REQUEST, timeout=TIMEOUT, metadata=METADATA)]))

    return call


def bidi(channel: Any) -> Callable[[], object]:
    """Return what makes a bidirectional call of `COUNT` requests and answers."""
    method = channel.stream_stream(f"{ECHO}Bidi", _registered_method=True)

    def call() -> None:
        _check(sum(1 for _ in method(iter([REQUEST] * COUNT), timeout=TIMEOUT)))

    return call


def bidi_aio(channel: Any) -> Callable[[], Awaitable[object]]:
    """Return what makes a bidirectional call of `COUNT` requests and answers, one after the other."""
    method = channel.stream_stream(f"{ECHO}Bidi", _registered_method=True)

    async def call() -> None:
        call = method(timeout=TIMEOUT)
        answers = 0
        for _ in range(COUNT):
            await call.write(REQUEST)
            await call.read()
            answers += 1
        await call.done_writing()
        await call.code()
        _check(answers)

    return call


def _check(answers: int) -> None:
    if answers != COUNT:
        raise Cut(f"{answers} answers of {COUNT}")
