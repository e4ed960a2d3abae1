"""What the end of an RPC says about the member that served it."""

from __future__ import annotations

from collections.abc import Hashable

import grpc

from .core.member import Member
from .core.norm import Norm

__all__ = ["BLAMED", "OK", "UNAVAILABLE", "code_of", "settle"]

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


def code_of(error: BaseException) -> grpc.StatusCode | None:
    """Return the status that an exception carries; None if it is not grpc's, or has none."""
    return error.code() if isinstance(error, grpc.RpcError) and hasattr(error, "code") else None


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
