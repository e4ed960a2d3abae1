"""What a real round trip to a server proves."""

from __future__ import annotations

import grpc

__all__ = ["ALIVE_METHOD", "verdict"]

# The health service's method: many servers have it, and those that do not answer UNIMPLEMENTED, which proves as well
# that somebody is there. Sent and read as raw bytes; an empty request asks for the health of the whole server.
ALIVE_METHOD = "/grpc.health.v1.Health/Check"

# How grpc words it when the user's own call credentials raise. It goes on with what they raised, which may be secret.
PLUGIN_FAILED = "Getting metadata from plugin failed"


def verdict(code: grpc.StatusCode, details: str | None, timeout: float) -> str | None:
    """Return why a round trip that ended so did not take place, or None if nothing speaks against the server.

    Any status that a server can have sent proves that it is there. UNAVAILABLE and DEADLINE_EXCEEDED do not, nor does
    the end of the channel meanwhile. Call credentials that fail say nothing about the server.
    """
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {timeout:g} s"
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return None if (details or "").startswith(PLUGIN_FAILED) else details or code.name
    return None
