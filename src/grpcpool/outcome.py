"""What the end of an RPC says about the member that served it."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable
from time import monotonic
from typing import Any

import grpc

from .core.member import Member
from .core.norm import Norm

__all__ = [
    "BLAMED",
    "OK",
    "RESENDS",
    "UNAVAILABLE",
    "code_of",
    "dropped",
    "left",
    "not_connected",
    "pushback",
    "refused",
    "rest",
    "settle",
    "unseen",
    "verdict",
]

# Looking a member up in an enum takes longer than all the rest that is done at the end of an RPC.
OK = grpc.StatusCode.OK
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED

# The statuses that grpc itself, or a server that cannot cope, ends an RPC with. All others are answers that an
# application chose to give, and another member would have given the same.
BLAMED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        DEADLINE_EXCEEDED,
    }
)

# How grpc words it that the server refused a stream (REFUSED_STREAM, RFC 9113, section 8.7: "the stream is being closed
# prior to any processing having occurred"). There is nothing but these words to tell it by; should they change, such
# RPCs end UNAVAILABLE, as they do on a plain channel.
REFUSED_STREAM = "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))"
# The same for a stream that came after the last one that a server which says goodbye has looked at (GOAWAY, section
# 6.8), from the beginning: what follows is the server's own text. A stream that it may have looked at is lost with
# other words before these. And for a stream that was to begin on a connection that had just ended, before anybody was
# told: nothing of it was sent. Why the connection ended follows.
NEVER_BEGAN = ("Stream removed (GOAWAY received;", "Stream removed (Transport closed")
# How grpc words it that there was no connection to send an RPC on, and none to be had.
NO_CONNECTION = ("failed to connect to all addresses", "connections to all backends failing", "errors resolving ")
# How grpc's servers drop RPCs that have come in, and that their application has not asked for yet, when they stop: with
# CANCELLED, and no words but that.
DROPPED = "CANCELLED"
# What grpc's sync channels say, with INTERNAL, when a serializer or a deserializer of the user's has raised: before the
# RPC was sent, and after it was answered.
UNSERIALIZED = "Exception serializing request!"
UNREADABLE = "Exception deserializing response!"
# What a server may send along with a failure, in milliseconds (gRFC A6).
PUSHBACK = "grpc-retry-pushback-ms"
# How often an RPC that was refused like that is sent again, and for how long it rests before that, in seconds: longer
# each time, a third of a second in all. That is how far a busy server lags behind in counting its streams; one that
# refuses for longer is not just about to take note of those that have ended.
RESENDS = 7
SHORTEST_REST, LONGEST_REST = 0.005, 0.1


def code_of(error: BaseException) -> grpc.StatusCode | None:
    """Return the status that an exception carries; None if it is not grpc's, or has none."""
    return error.code() if isinstance(error, grpc.RpcError) and hasattr(error, "code") else None


def verdict(code: grpc.StatusCode | None, error: Any) -> grpc.StatusCode | None:
    """Return the status that an RPC of a sync channel has ended with as far as its member goes; None: it has not begun.

    Arguments:
        code: the status.
        error: what the RPC has raised, or its call: asked for the details.
    """
    if code is grpc.StatusCode.INTERNAL and hasattr(error, "details"):
        details = error.details()
        if details == UNSERIALIZED:
            return None
        if details == UNREADABLE:
            return OK
    return code


def refused(code: grpc.StatusCode | None, details: str | None) -> bool:
    """Say whether an RPC ended without the server having looked at it, because it has too many of them already.

    That may happen below the limit as well: a server that is busy goes on counting, for a moment, streams whose end the
    client has long been told.
    """
    return code is UNAVAILABLE and details == REFUSED_STREAM


def unseen(code: grpc.StatusCode | None, details: str | None) -> bool:
    """Say whether an RPC certainly ended without the server having looked at it."""
    return refused(code, details) or (code is UNAVAILABLE and str(details).startswith(NEVER_BEGAN))


def not_connected(code: grpc.StatusCode | None, details: str | None) -> bool:
    """Say whether an RPC seems to have ended because its channel could not connect.

    A server that calls others itself may pass their words on. Then there is a connection: look at that as well.
    """
    return code is UNAVAILABLE and details is not None and details.startswith(NO_CONNECTION)


def dropped(code: grpc.StatusCode | None, details: str | None) -> bool:
    """Say whether an RPC seems to have been dropped by a server that stopped, before its application looked at it.

    An application may say the same of its own accord. If its server stopped, there is no connection any more: look at
    that as well. Not for RPCs that were cancelled by their caller.
    """
    return code is grpc.StatusCode.CANCELLED and details == DROPPED


def pushback(trailing: Iterable[tuple[str, str | bytes]] | None) -> float | None:
    """Return what a failure's trailing metadata say about when to come back, in seconds; None if they say nothing.

    Below 0: never, which is also what a value means that is no number (gRFC A6).
    """
    for key, value in trailing or ():
        if key == PUSHBACK:
            try:
                return int(value) / 1000
            except ValueError:
                return -1.0
    return None


def rest(number: int, timeout: float | None) -> float:
    """Return how long an RPC should rest before it is sent again for the `number`-th time, in seconds.

    Arguments:
        timeout: what it has left; None if it has no deadline.
    """
    # By up to a half less, at random, or all that were refused at once would be back at once.
    seconds = min(SHORTEST_REST * (1 << (number - 1)), LONGEST_REST) * random.uniform(0.5, 1)
    return seconds if timeout is None else min(seconds, timeout)


def left(timeout: float | None, started: float) -> float | None:
    """Return what is left now of the timeout of something that started then; None: there is no end to it."""
    return None if timeout is None else max(timeout - (monotonic() - started), 0)


def settle(
    member: Member, token: Hashable, code: grpc.StatusCode | None, now: float, latency: float | None, norm: Norm
) -> None:
    """Take down that an RPC ended with this status, or None if it never had one; only the first time counts.

    Arguments:
        token: what `Member.begin` returned.
        latency: seconds that it took; None for a stream.
        norm: that of the RPC's method.
    """
    if code is OK:
        member.answered(token, now, latency, norm)
    elif code is None or code is grpc.StatusCode.CANCELLED:
        member.dropped(token, now, latency, norm)
    else:
        member.failed(token, now, latency, norm, blame=code in BLAMED, late=code is DEADLINE_EXCEEDED)
