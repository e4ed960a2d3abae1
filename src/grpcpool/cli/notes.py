"""What happened on the way, in words, with the time of each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from .. import events

__all__ = ["Note", "Notes", "describe"]


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happened.

    Attributes:
        at: seconds since the contender's channel was made.
        source: ``"pool"`` if it is an event of the pool, ``"demo"`` if the demo did it.
        text: what it was.
    """

    at: float
    source: str
    text: str


class Notes:
    """A list of notes with a clock that runs from the moment it is made. Thread-safe; itself a listener for a pool.

    Arguments:
        servers: the name of the server behind each target.
    """

    def __init__(self, servers: Mapping[str, str]) -> None:
        self._servers = servers
        self._began = time.perf_counter()
        self._notes: list[Note] = []

    def now(self) -> float:
        """Return the seconds since this was made."""
        return time.perf_counter() - self._began

    def add(self, text: str) -> float:
        """Take a note of what the demo did, and return its time."""
        note = Note(self.now(), "demo", text)
        self._notes.append(note)
        return note.at

    def __call__(self, event: events.Event) -> None:
        """Take a note of what the pool says, if it is worth one."""
        text = describe(event, self._servers)
        if text is not None:
            self._notes.append(Note(self.now(), "pool", text))

    def all(self) -> tuple[Note, ...]:
        """Return the notes so far, the oldest first."""
        return tuple(self._notes)


def describe(event: events.Event, servers: Mapping[str, str]) -> str | None:
    """Say what an event means in a few words, or return None if it adds nothing to those that are shown.

    Arguments:
        servers: the name of the server behind each target.
    """
    who = ""
    if isinstance(event, events.MemberEvent):
        who = f"member {event.member} ({servers.get(event.endpoint, event.endpoint)})"
    match event:
        case events.Opened():
            return f"opened with {event.size} members"
        case events.Connected():
            return f"{who} connected in {_milliseconds(event.duration)}"
        case events.ConnectionDown():
            return f"{who} left the picks: {event.reason}"
        case events.ReconnectScheduled():
            return f"{who} could not connect, attempt {event.attempt}; next in {event.delay:.1f} s"
        case events.Rebuilt():
            return f"{who} is replaced by member {event.replacement} after {event.attempts} attempts"
        case events.ScaledUp():
            done = f"{event.succeeded} of {event.requested}"
            return f"grew by {done} members to {event.new_size} in {_milliseconds(event.duration)}"
        case events.ScaledDown():
            return f"shrank by {event.succeeded} members to {event.new_size}"
        case events.StrategyFailed():
            return f"strategy {event.strategy} failed: {event.error}"
        case events.MaintenanceFailed():
            return f"background work failed: {event.error}"
        case _:
            return None


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
