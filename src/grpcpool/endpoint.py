"""Where members connect to, and how they are spread over it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .errors import ConfigError, ConfigTypeError

__all__ = ["Endpoint", "place"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One gRPC target, with a weight.

    Attributes:
        target: anything grpc accepts: ``"host:port"``, ``"dns:///name:port"``, ``"unix:/path"``, ``"ipv4:1.2.3.4:5"``.
        weight: its relative share of the traffic, above 0, for strategies that look at it. It does not change how
            many members connect to it.
    """

    target: str
    weight: float = 1

    def __post_init__(self) -> None:
        if not isinstance(self.target, str):
            raise ConfigTypeError("target", repr(self.target), "a gRPC target as text, such as 'localhost:50051'")
        if isinstance(self.weight, bool) or not isinstance(self.weight, (int, float)):
            raise ConfigTypeError("weight", repr(self.weight), "a number above 0")
        if not 0 < self.weight < float("inf"):
            raise ConfigError("weight", repr(self.weight), "a number above 0")


def place(endpoints: Sequence[Endpoint], taken: Iterable[str]) -> Endpoint:
    """Return the endpoint that should get the next member: the one with the fewest, the first of several such.

    Arguments:
        endpoints: the choice, at least one.
        taken: the target of every member there is.
    """
    counts = {endpoint.target: 0 for endpoint in endpoints}
    for target in taken:
        if target in counts:
            counts[target] += 1
    return min(endpoints, key=lambda endpoint: counts[endpoint.target])
