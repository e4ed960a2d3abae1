"""What a `FaultServer` answers, suffers, and has seen: shared by its connections, changed on its loop alone."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from .faults import Faults
from .servers import ECHO

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["CHECK", "HEALTH", "WATCH", "Answer", "ConnectionSeen", "Reply", "Request", "State"]

HEALTH = "/grpc.health.v1.Health/"
CHECK, WATCH = HEALTH + "Check", HEALTH + "Watch"
# Requests that are remembered.
REMEMBERED = 10_000

Reply = bytes | Callable[[bytes], bytes | Iterable[bytes]]


@dataclass(frozen=True)
class Answer:
    """How a method is answered.

    Attributes:
        reply: see `FaultServer.answer`.
        whole: once, when all messages have come; else each of them.
    """

    reply: Reply
    whole: bool


@dataclass(frozen=True)
class Request:
    """A call that reached a `FaultServer`.

    Attributes:
        method: such as ``"/package.Service/Method"``.
        metadata: what the client sent with it, as pairs, and as grpc sends it (values of ``-bin`` keys in base64).
        timeout: seconds that it had left when it was sent, which grpc rounds up a little; None: it has no deadline.
        at: when it came, by `time.monotonic`.
        port: the client's port, which tells connections apart.
    """

    method: str
    metadata: tuple[tuple[str, str], ...]
    timeout: float | None
    at: float
    port: int


class ConnectionSeen(NamedTuple):
    """A connection that is open.

    Attributes:
        port: the client's port.
        calls: how many came on it, health checks and refused streams not counted.
        in_flight: how many of all calls are running.
    """

    port: int
    calls: int
    in_flight: int


def echo(request: bytes) -> bytes:
    """Return the message."""
    return request


ECHO_EACH = Answer(echo, whole=False)


@dataclass
class State:
    """See the module."""

    faults: Faults
    answers: dict[str, Answer] = field(
        default_factory=lambda: {
            f"{ECHO}ServerStream": Answer(lambda request: [request] * 3, whole=False),
            f"{ECHO}ClientStream": Answer(echo, whole=True),
        }
    )
    limit: int | None = None
    advertised: bool = True
    black_hole: bool = False
    serving: bool = True
    # Set and replaced when `serving` changes.
    health_changed: asyncio.Event = field(default_factory=asyncio.Event)
    accepting: bool = False
    connections: set[Connection] = field(default_factory=set)
    accepted: int = 0
    calls: int = 0
    refused: int = 0
    in_flight: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    requests: deque[Request] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def answer_to(self, method: str) -> Answer:
        """Return how a method is answered."""
        return self.answers.get(method, ECHO_EACH)
