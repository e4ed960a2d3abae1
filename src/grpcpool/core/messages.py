"""What the state machine is told (inputs), and what it answers (effects).

Named tuples rather than dataclasses: as immutable and as readable, and two dozen of them are made in a tenth of the
time, which everybody who imports this package would wait for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
    "Full",
    "Input",
    "Measure",
    "Observed",
    "Open",
    "OpenChannels",
    "Ping",
    "Pinged",
    "Prime",
    "Primed",
    "Probed",
    "Publish",
    "Report",
    "Republish",
    "Resize",
    "Retire",
    "Served",
    "Tick",
    "Troubled",
    "Wanted",
    "Watch",
]


# --- inputs


class Open(NamedTuple):
    """Somebody wants the pool open. `ticket` comes back in an `Answer` once its members have been built."""

    ticket: Any = None


class Built(NamedTuple):
    """The answer to `OpenChannels`: these members have a channel, those could not be given one."""

    built: tuple[Member, ...]
    failed: tuple[tuple[Member, str], ...] = ()


class Observed(NamedTuple):
    """A member's channel was seen in this state."""

    member: Member
    state: Connectivity


class Explained(NamedTuple):
    """The answer to `Explain`: why the member does not connect, or None if it turned out to be connected."""

    member: Member
    error: str | None


class Pinged(NamedTuple):
    """The answer to `Ping`: `error` is None if the member is alive."""

    member: Member
    duration: float
    error: str | None


class Primed(NamedTuple):
    """The answer to `Prime`: `error` is None if the primer returned."""

    member: Member
    error: str | None


class Troubled(NamedTuple):
    """RPCs have failed on the member, as many in a row as may."""

    member: Member


class Probed(NamedTuple):
    """The one RPC that a member on probation is to be given is on its way there."""

    member: Member


class Served(NamedTuple):
    """The member's server says whether it serves; `detail`: in what words."""

    member: Member
    serving: bool
    detail: str = ""


class Measure(NamedTuple):
    """A good moment to look at the load."""


class Full(NamedTuple):
    """RPCs have begun to wait for room."""


class Resize(NamedTuple):
    """The pool shall have `by` more (or fewer) members, or exactly `to`. `ticket` comes back in an `Answer`."""

    ticket: Any
    by: int = 0
    to: int | None = None


class Drained(NamedTuple):
    """A retired member has no RPC in flight any more."""

    member: Member


class Tick(NamedTuple):
    """Time has passed; see `Machine.wake_at`."""


class Close(NamedTuple):
    """No new RPC; running ones may end."""


class Abort(NamedTuple):
    """After `Close`: running RPCs need not be waited for any longer."""


class Republish(NamedTuple):
    """Publish once more, though nothing has changed: what is published beside the members has."""


class Wanted(NamedTuple):
    """An RPC found no member that is connected or about to be."""


Input = (
    Open
    | Built
    | Observed
    | Explained
    | Pinged
    | Primed
    | Troubled
    | Probed
    | Served
    | Measure
    | Full
    | Resize
    | Drained
    | Tick
    | Close
    | Abort
    | Republish
    | Wanted
)


# --- effects


class OpenChannels(NamedTuple):
    """Make a channel for each member; answer with one `Built`."""

    members: tuple[Member, ...]


class Connect(NamedTuple):
    """Ask the member's channel to connect."""

    member: Member


class Explain(NamedTuple):
    """Find out why the member does not connect; answer with `Explained`."""

    member: Member


class Ping(NamedTuple):
    """Make a real round trip; answer with `Pinged`. `timeout`: in seconds; None: as configured."""

    member: Member
    timeout: float | None = None


class Watch(NamedTuple):
    """The member has connected: find out whether its server says that it serves, and answer `Served` at each change."""

    member: Member


class Prime(NamedTuple):
    """Run the primer on the member's channel; answer with `Primed`."""

    member: Member


class Publish(NamedTuple):
    """Picks choose among `ready` from now on, or among `fallback` while nothing is ready.

    `down`: all of `fallback` have failed, so whoever picks one should say `Wanted` first. `probes`: not among `ready`,
    each to be given one RPC, and `Probed` to be said then. `warming`: who among `ready` has come back, and when, and is
    to have a growing share.
    """

    ready: tuple[Member, ...]
    fallback: tuple[Member, ...]
    closed: bool = False
    down: bool = False
    probes: tuple[Member, ...] = ()
    warming: tuple[tuple[Member, float], ...] = ()


class Retire(NamedTuple):
    """Comes after the `Publish` that took the member out: mark it, and answer `Drained` when its last RPC ends."""

    member: Member


class CloseChannel(NamedTuple):
    """Close the member's channel. It will not be mentioned again."""

    member: Member


class Report(NamedTuple):
    """The connectivity of the whole pool is now this."""

    state: Connectivity


class Emit(NamedTuple):
    """Tell the listeners."""

    event: Event


class Answer(NamedTuple):
    """The outcome of an `Open` or a `Resize`: the size, or why not. Comes after the `Publish` that made it true."""

    ticket: Any
    outcome: int | Exception


Effect = (
    OpenChannels | Connect | Explain | Ping | Prime | Watch | Publish | Retire | CloseChannel | Report | Emit | Answer
)
