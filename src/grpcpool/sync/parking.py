"""Where the threads of a sync pool are while the process forks: outside grpc."""

from __future__ import annotations

import threading
import time
from typing import Any

from ..core.engine import Engine
from ..core.lookout import Lookout
from ..core.member import Member
from ..core.standstill import Standstill
from ..inflight import InFlight
from ..liveness import ALIVE_METHOD
from ..telemetry.logging import logger

__all__ = ["Parking", "Pause"]

# Between two looks whether all is quiet, in seconds; an RPC takes about as long.
LOOK_EVERY = 0.001
# For so long, in seconds, a new channel that is not connected may be looking up the names of its target.
RESOLVING = 0.25


class Parking:
    """Keeps threads waiting until it is opened: those that would begin RPCs, and those that serve channels.

    While RPCs are in flight of which the caller holds the call (streams, futures), each channel has a thread of grpc's
    own that waits inside grpc for news of them. It comes out to call the callbacks of a call that has ended. So it is
    given such a call, which ends at once, with a callback that waits here.
    """

    def __init__(self) -> None:
        self._owner = threading.get_ident()
        self._open = threading.Event()
        self._due: dict[Member, list[Any]] = {}
        self._here: set[Member] = set()

    def wait(self) -> None:
        """Return when it is opened, or at once in the thread that made it."""
        if threading.get_ident() != self._owner:
            self._open.wait()

    def call_in(self, member: Member) -> None:
        """Have the thread come that serves the member's channel, if there is one and it has not been called."""
        if member not in self._due and _is_served(member.channel):
            self._due[member] = []
            self._call(member)

    def _call(self, member: Member) -> None:
        def come(_: object) -> None:
            # Else the call has ended so soon that this is called by whoever made it, and not by that thread.
            if threading.get_ident() != self._owner:
                self._here.add(member)
                self._open.wait()

        calls = self._due[member]
        try:
            method: Any = member.channel.unary_unary(ALIVE_METHOD)
            # No time at all: it is over before anything is sent. It is kept, for it would else be cancelled.
            calls.append(method.future(b"", timeout=0))
            calls[-1].add_done_callback(come)
        except ValueError:
            # The channel has just been closed.
            del self._due[member]

    def is_full(self) -> bool:
        """Say whether all have come."""
        for member in [member for member in self._due if member not in self._here]:
            if all(call.done() for call in self._due[member]):
                # It may be on its way; if it came too early, it is called again.
                self._call(member)
        return self._here >= self._due.keys()

    def open(self) -> None:
        """Let all go."""
        self._open.set()


class Pause:
    """Keeps all threads out of grpc that would be there for one pool, from `begin` to `end`.

    Arguments:
        label: what the pool is called in the log.
    """

    def __init__(self, engine: Engine, lookout: Lookout, label: str) -> None:
        self._engine = engine
        self._lookout = lookout
        self._label = label
        self._parking = Parking()
        self._standstill = Standstill(engine, lookout, self._parking.wait)

    def begin(self) -> None:
        """Let no RPC begin from now on."""
        self._standstill.begin()

    def settle(self, deadline: float, *, decisions: bool) -> None:
        """Wait until no thread is inside grpc, but not longer than until `deadline`.

        Arguments:
            decisions: as `Standstill.hold` has it.
        """
        while not self._is_quiet(decisions):
            if time.monotonic() >= deadline:
                logger.warning(
                    "pool %r: the process forks while RPCs are running; grpc may fail in the child", self._label
                )
                return
            time.sleep(LOOK_EVERY)
        if self._engine.machine.slots:
            # They have their results, and may still be on their way out.
            time.sleep(LOOK_EVERY)

    def _is_quiet(self, decisions: bool) -> bool:
        if not self._standstill.hold(decisions=decisions):
            return False
        members = list(self._engine.machine.slots)
        for member in members:
            self._parking.call_in(member)
        return self._parking.is_full() and not any(map(_is_blocked, members)) and not any(map(self._resolves, members))

    def _resolves(self, member: Member) -> bool:
        # A fork in the middle of a name resolution makes grpc end the child. There is no asking it about that.
        return time.monotonic() - member.born < RESOLVING and not self._lookout.is_connected(member)

    def end(self) -> None:
        """Let all go on."""
        self._standstill.end()
        self._parking.open()


def _is_blocked(member: Member) -> bool:
    """Say whether an RPC is in flight there whose caller is inside grpc until it ends."""
    # Of all others, grpc's call object stands among the leases.
    return any(not isinstance(token, InFlight) for token in member.leases.copy())


def _is_served(channel: Any) -> bool:
    """Say whether the channel has a thread of grpc's own, as far as that can be known."""
    inner = channel
    while inner is not None:
        # How many calls it serves. Private; each layer of a channel keeps what it wraps in `_channel`.
        calls = getattr(getattr(inner, "_call_state", None), "managed_calls", None)
        if isinstance(calls, int):
            return calls > 0
        inner = getattr(inner, "_channel", None)
    return channel is not None
