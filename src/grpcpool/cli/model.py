"""What the demo is told, and what it finds out: plain records that can be shown in any form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import grpc

from ..stats import MemberStats, PoolStats
from .load import Latency, Measured
from .notes import Note, Notes
from .stage import Server

__all__ = ["Contender", "Frame", "Outcome", "Result", "Screen", "Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user chose.

    Attributes:
        seconds: how long each contender is driven.
        size: the pool's.
        strategy: the pool's, by name.
        threads: how many call at once.
        seed: for the pool's random choices; None: from the operating system.
    """

    seconds: float
    size: int
    strategy: str
    threads: int
    seed: int | None


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to reach the servers.

    Attributes:
        name: short.
        code: the line of code that it is.
        what: what that line means.
        make: makes the channel; a pool tells the notes its events.
    """

    name: str
    code: str
    what: str
    make: Callable[[Notes], grpc.Channel]


@dataclass(frozen=True, slots=True)
class Frame:
    """One moment of a contender's run.

    Attributes:
        name: the contender's.
        elapsed, seconds: how long the load has run, and will.
        calls, errors, in_flight: calls that ended, failed ones by status code, and calls that run.
        recent: latency of the last few.
        connections: to each server.
        members: of the pool; None for a plain channel.
        notes: what happened so far.
    """

    name: str
    elapsed: float
    seconds: float
    calls: int
    errors: Mapping[str, int]
    in_flight: int
    recent: Latency | None
    connections: Mapping[str, int]
    members: tuple[MemberStats, ...] | None
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a contender's run came to.

    Attributes:
        contender: who.
        measured: calls, errors and latency.
        connections: to each server before the kill; None if the run was over before that.
        connections_grown: after the pool had grown; None if it has not.
        connections_end: when the load ended.
        killed_at, back_at: when the server was killed and when it was back, in seconds since the channel was made;
            None if the run was over before that.
        notes: what happened.
        stats: the pool's own account at the end; None for a plain channel.
    """

    contender: Contender
    measured: Measured
    connections: Mapping[str, int] | None
    connections_grown: Mapping[str, int] | None
    connections_end: Mapping[str, int]
    killed_at: float | None
    back_at: float | None
    notes: tuple[Note, ...]
    stats: PoolStats | None


@dataclass(frozen=True, slots=True)
class Result:
    """The whole demo."""

    settings: Settings
    servers: tuple[Server, ...]
    outcomes: tuple[Outcome, ...]


class Screen(Protocol):
    """Where a run can be watched."""

    def begin(self, settings: Settings, servers: tuple[Server, ...], contenders: tuple[Contender, ...]) -> None:
        """Say what is about to happen."""

    def watch(self, contender: Contender) -> AbstractContextManager[Callable[[Frame], None]]:
        """Show a contender while the context lasts: what it yields is called with each frame."""
        ...

    def end(self, outcome: Outcome) -> None:
        """Say how a contender did."""
