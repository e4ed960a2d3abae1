"""What the state machine is told (inputs), and what it answers (effects)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..events import Event
from .connectivity import Connectivity
from .member import Member

__all__ = [
    "Abort",
    "Answer",
    "Built",
    "Close",
    "CloseChannel",
    "Connect",
    "Drained",
    "Effect",
    "Emit",
    "Explain",
    "Explained",
    "Input",
    "Observed",
    "Open",
    "OpenChannels",
    "Ping",
    "Pinged",
    "Publish",
    "Report",
    "Republish",
    "Resize",
    "Retire",
    "Tick",
]


# --- inputs


@dataclass(frozen=True, slots=True)
class Open:
    """Somebody wants the pool open. `ticket` comes back in an `Answer` once its members have been built."""

    ticket: Any = None


@dataclass(frozen=True, slots=True)
class Built:
    """The answer to `OpenChannels`: these members have a channel, those could not be given one."""

    built: tuple[Member, ...]
    failed: tuple[tuple[Member, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """A member's channel was seen in this state."""

    member: Member
    state: Connectivity


@dataclass(frozen=True, slots=True)
class Explained:
    """The answer to `Explain`: why the member does not connect, or None if it turned out to be connected."""

    member: Member
    error: str | None


@dataclass(frozen=True, slots=True)
class Pinged:
    """The answer to `Ping`: `error` is None if the member is alive."""

    member: Member
    duration: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Resize:
    """The pool shall have `by` more (or fewer) members, or exactly `to`. `ticket` comes back in an `Answer`."""

    ticket: Any
    by: int = 0
    to: int | None = None


@dataclass(frozen=True, slots=True)
class Drained:
    """A retired member has no RPC in flight any more."""

    member: Member


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; see `Machine.wake_at`."""


@dataclass(frozen=True, slots=True)
class Close:
    """No new RPC; running ones may end."""


@dataclass(frozen=True, slots=True)
class Abort:
    """After `Close`: running RPCs need not be waited for any longer."""


@dataclass(frozen=True, slots=True)
class Republish:
    """Publish once more, though nothing has changed: what is published beside the members has."""


Input = Open | Built | Observed | Explained | Pinged | Resize | Drained | Tick | Close | Abort | Republish


# --- effects


@dataclass(frozen=True, slots=True)
class OpenChannels:
    """Make a channel for each member; answer with one `Built`."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Connect:
    """Ask the member's channel to connect."""

    member: Member


@dataclass(frozen=True, slots=True)
class Explain:
    """Find out why the member does not connect; answer with `Explained`."""

    member: Member


@dataclass(frozen=True, slots=True)
class Ping:
    """Make a real round trip; answer with `Pinged`."""

    member: Member


@dataclass(frozen=True, slots=True)
class Publish:
    """Picks choose among `ready` from now on, or among `fallback` while nothing is ready."""

    ready: tuple[Member, ...]
    fallback: tuple[Member, ...]
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Retire:
    """Comes after the `Publish` that took the member out: mark it, and answer `Drained` when its last RPC ends."""

    member: Member


@dataclass(frozen=True, slots=True)
class CloseChannel:
    """Close the member's channel. It will not be mentioned again."""

    member: Member


@dataclass(frozen=True, slots=True)
class Report:
    """The connectivity of the whole pool is now this."""

    state: Connectivity


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell the listeners."""

    event: Event


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of an `Open` or a `Resize`: the size, or why not. Comes after the `Publish` that made it true."""

    ticket: Any
    outcome: int | Exception


Effect = OpenChannels | Connect | Explain | Ping | Publish | Retire | CloseChannel | Report | Emit | Answer
