"""What both rooms need to ask servers whether they serve (``grpc.health.v1``)."""

from __future__ import annotations

from typing import Any

import grpc

__all__ = ["CHECK_EVERY", "STREAM", "health_of", "pause", "stub_and_request", "unknown_service"]

# Where a server knows `Check` and not `Watch`, it is asked again so often, in seconds.
CHECK_EVERY = 5.0
# A stream is opened anew after so long. One that has died in silence would never tell anything again.
STREAM = 30.0
# After a stream that told nothing, in seconds, and at most; each time in a row twice as long.
SHORTEST, LONGEST = 0.5, 30.0

SERVING = 1


def stub_and_request(channel: Any, service: str) -> tuple[Any, Any]:
    """Return what to ask through, and what to ask.

    Raises:
        ImportError: the library is not installed. The configuration has been checked for that.
    """
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    return health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest(service=service)


def health_of(response: Any) -> tuple[bool, str]:
    """Return whether the server says that it serves, and in what words."""
    status, known = response.status, response.ServingStatus
    # A newer server may know one that this process does not.
    return status == SERVING, known.Name(status) if status in known.values() else f"status {status}"


def unknown_service(code: grpc.StatusCode | None) -> bool:
    """Say whether a server does not know the service, by the status of a `Check`. Of a `Watch` that is a message."""
    return code is grpc.StatusCode.NOT_FOUND


def pause(failures: int) -> float:
    """Return how long to wait, in seconds, after so many streams in a row that told nothing."""
    return min(SHORTEST * 2.0 ** min(failures, 16), LONGEST)
