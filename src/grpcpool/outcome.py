"""What the end of an RPC says about the member that served it."""

from __future__ import annotations

import random
from collections.abc import Hashable
from time import monotonic

import grpc

from .core.member import Member
from .core.norm import Norm

__all__ = ["BLAMED", "OK", "RESENDS", "UNAVAILABLE", "code_of", "left", "refused", "rest", "settle"]

# Looking a member up in an enum takes longer than all the rest that is done at the end of an RPC.
OK = grpc.StatusCode.OK
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

# The statuses that grpc itself, or a server that cannot cope, ends an RPC with. All others are answers that an
# application chose to give, and another member would have given the same.
BLAMED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)

# How grpc words it that the server refused a stream (REFUSED_STREAM, RFC 9113, section 8.7: "the stream is being closed
# prior to any processing having occurred"). There is nothing but these words to tell it by; should they change, such
# RPCs end UNAVAILABLE, as they do on a plain channel.
REFUSED_STREAM = "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))"
# How often an RPC that was refused like that is sent again, and for how long it rests before that, in seconds: longer
# each time, a third of a second in all. That is how far a busy server lags behind in counting its streams; one that
# refuses for longer is not just about to take note of those that have ended.
RESENDS = 7
SHORTEST_REST, LONGEST_REST = 0.005, 0.1


def code_of(error: BaseException) -> grpc.StatusCode | None:
    """Return the status that an exception carries; None if it is not grpc's, or has none."""
    return error.code() if isinstance(error, grpc.RpcError) and hasattr(error, "code") else None


def refused(code: grpc.StatusCode | None, details: str | None) -> bool:
    """Say whether an RPC ended without the server having looked at it, because it has too many of them already.

    That may happen below the limit as well: a server that is busy goes on counting, for a moment, streams whose end the
    client has long been told.
    """
    return code is UNAVAILABLE and details == REFUSED_STREAM


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
        member.failed(token, now, latency, norm, blame=code in BLAMED)
