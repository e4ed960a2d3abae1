"""What a `FaultServer` can be told to do to its calls."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal, TypeVar

__all__ = [
    "Corrupt",
    "Fail",
    "Failure",
    "Fault",
    "Faults",
    "Garbage",
    "Hang",
    "Misgreet",
    "Refuse",
    "Rule",
    "Slow",
    "number_of",
]

F = TypeVar("F", bound="Fault")


class Failure(Exception):
    """Raise it in an answer of a `FaultServer` to end the call with a status.

    Arguments:
        code: a `grpc.StatusCode`, or its number.
        details: the text beside it.
    """

    def __init__(self, code: object, details: str = "") -> None:
        self.code = number_of(code)
        self.details = details
        super().__init__(f"{code}: {details}")


def number_of(code: object) -> int:
    """Return the number of a status code; grpc is not imported to know its numbers."""
    number = code if isinstance(code, int) else getattr(code, "value", (None,))[0]
    if not isinstance(number, int):
        raise TypeError(f"not a grpc.StatusCode: {code!r}")
    # Without what an enum adds to it, such as how it is printed.
    return int(number)


@dataclass
class Rule:
    """Which calls a fault is for.

    Attributes:
        methods: only calls of these; empty: of all.
        fraction: that many of them, 0 to 1, chosen at random.
        times: that many of them, and then no more; None: no end.
    """

    methods: Collection[str] = ()
    fraction: float = 1.0
    times: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.methods, str):
            self.methods = (self.methods,)
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction: not between 0 and 1: {self.fraction!r}")

    @property
    def everything(self) -> bool:
        """It is for all calls, for ever."""
        return not self.methods and self.fraction == 1 and self.times is None

    def applies(self, method: str, rng: random.Random) -> bool:
        """Say whether a call is one of those."""
        if self.methods and method not in self.methods:
            return False
        if self.times == 0 or (self.fraction < 1 and rng.random() >= self.fraction):
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(eq=False)
class Fault:
    """Something that happens to calls."""

    rule: Rule


@dataclass(eq=False)
class Slow(Fault):
    """The call takes longer."""

    seconds: float | Callable[[], float]

    def draw(self) -> float:
        """Return how much longer, in seconds."""
        return self.seconds() if callable(self.seconds) else self.seconds


@dataclass(eq=False)
class Hang(Fault):
    """The call is not answered until the fault is over."""

    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class Fail(Fault):
    """The call ends with a status."""

    code: int
    details: str
    after: float
    trailers: tuple[tuple[str, str], ...]


@dataclass(eq=False)
class Refuse(Fault):
    """The stream is refused."""


@dataclass(eq=False)
class Corrupt(Fault):
    """What comes instead of the answer is none: a broken message, or the end of all HTTP/2 on the connection."""

    what: Literal["message", "truncated", "connection"]


@dataclass(eq=False)
class Misgreet(Fault):
    """A new connection is greeted by something that is not HTTP/2."""


@dataclass(eq=False)
class Garbage(Fault):
    """The answer is anything."""

    rng: random.Random


class Faults:
    """Those that are in force; where several of one kind could be for a call, the latest is."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Let a fault be in force."""
        if fault.rule.everything:
            # No call is left for the earlier ones.
            self._remove([other for other in self._faults if type(other) is type(fault)])
        self._faults.insert(0, fault)

    def clear(self) -> None:
        """Let no fault be in force any more."""
        self._remove(list(self._faults))

    def _remove(self, faults: list[Fault]) -> None:
        for fault in faults:
            self._faults.remove(fault)
            if isinstance(fault, Hang):
                fault.over.set()

    def __bool__(self) -> bool:
        return bool(self._faults)

    def find(self, kind: type[F], method: str) -> F | None:
        """Return the fault of this kind that a call of `method` suffers now, if any."""
        for fault in self._faults:
            if isinstance(fault, kind) and fault.rule.applies(method, self._rng):
                return fault
        return None

    def at_connect(self) -> Misgreet | Garbage | None:
        """Return the fault that a new connection suffers now, if any."""
        for fault in self._faults:
            if isinstance(fault, Garbage) and fault.rng.random() < GARBAGE_AT_CONNECT:
                return fault
        return self.find(Misgreet, "")


# Of the connections to a server that says anything, this part is not even greeted properly.
GARBAGE_AT_CONNECT = 0.1
