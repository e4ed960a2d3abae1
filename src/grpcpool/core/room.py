"""What the core asks of the room that it acts through."""

from __future__ import annotations

from typing import NoReturn, Protocol

from .connectivity import Connectivity
from .member import Member
from .messages import Input

__all__ = ["Room"]


class Room(Protocol):
    """What a room does for its engine: all that touches grpc, threads or a loop. Nothing here may block."""

    def tell(self, message: Input) -> None:
        """Post the message and pump."""

    def build(self, member: Member) -> None:
        """Make the member's channel. What it raises counts as a failed attempt to connect."""

    def connect(self, member: Member) -> None:
        """Ask the member's channel to connect."""

    def explain(self, member: Member) -> None:
        """Find out why the member does not connect, and post `Explained`."""

    def ping(self, member: Member, timeout: float | None) -> None:
        """Make a real round trip, within `timeout` or as configured, and post `Pinged`."""

    def watch(self, member: Member) -> None:
        """Find out whether the member's server says that it serves, and post `Served` at each change."""

    def prime(self, member: Member) -> None:
        """Run the primer on the member's channel, and post `Primed`."""

    def close_channel(self, member: Member) -> None:
        """Close the member's channel."""

    def published(self) -> None:
        """A new generation is there: wake whoever waits for one."""

    def report(self, state: Connectivity) -> None:
        """The connectivity of the whole pool is now `state`."""

    def wake(self) -> None:
        """See to it that `pump` is called soon, from outside whatever is running. Called from anywhere, even from a
        garbage collection that interrupts this very engine.
        """

    def is_here(self) -> bool:
        """Whether RPCs can be started and woken from this thread. Called from anywhere, as `wake`."""
        ...

    def on_first_use(self) -> None:
        """An RPC needs the pool open: return when it is, or raise."""

    def want(self) -> None:
        """An RPC found nobody worth picking: tell the engine `Wanted`."""

    def not_connected(self) -> NoReturn:
        """Raise what `get_channel` raises while no member is connected."""
        ...

    def no_channel(self) -> NoReturn:
        """Raise what an RPC raises while there is no channel at all to try it on."""
        ...

    def refuse(self) -> NoReturn:
        """Raise what the use of a closed pool raises."""
        ...

    def complain(self, text: str, error: BaseException) -> None:
        """Log an exception that nobody else will hear of."""
