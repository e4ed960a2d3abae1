"""The last decisions of a pool, each with its reason."""

from __future__ import annotations

from collections import deque

from .. import events
from ..stats import Decision

__all__ = ["KEPT", "Journal"]

# Enough to see how a bad quarter of an hour came about, and no more than a screen or two.
KEPT = 100


class Journal:
    """Keeps what was decided, and when. Written by one thread at a time, read by any."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: deque[tuple[float, str, str]] = deque(maxlen=KEPT)

    def note(self, event: events.Event, now: float) -> None:
        """Write the event down, if it tells of a decision."""
        reason = _reason(event)
        if reason is not None:
            self._entries.append((now, type(event).__name__, reason))

    def read(self, now: float) -> tuple[Decision, ...]:
        """Return the decisions, oldest first."""
        while True:
            try:
                return tuple(Decision(now - then, what, reason) for then, what, reason in self._entries.copy())
            except RuntimeError:  # pragma: no cover
                # One was added while the copy was made.
                continue


def _reason(event: events.Event) -> str | None:
    match event:
        case events.Opened(size=size, endpoints=endpoints):
            return f"{size} members over {len(endpoints)} targets"
        case events.Scaling(new_size=size, failed=failed, reason=reason):
            return f"size {size}: {reason}" + (f"; {failed} did not connect" if failed else "")
        case events.Recycled(member=member, replacement=replacement, reason=reason):
            return f"member {member} by {replacement}: {reason}"
        case events.Rebuilt(member=member, replacement=replacement, attempts=attempts):
            why = f"{attempts} failed attempts to connect" if attempts else "its channel was of no more use"
            return f"member {member} by {replacement}: {why}"
        case events.ConnectionDown(member=member, reason=reason):
            return f"member {member}: {reason}"
        case events.PrimerFailed(member=member, error=error):
            return f"member {member}: {error}"
        case events.Drained(member=member, reason=reason, cancelled=cancelled) if cancelled:
            # Else nothing was decided but what has been told before.
            return f"member {member}: {reason}; {cancelled} RPCs were cancelled"
        case (
            events.Ejected(member=member, reason=reason)
            | events.Probing(member=member, reason=reason)
            | events.Readmitted(member=member, reason=reason)
            | events.Spared(member=member, reason=reason)
            | events.NotServing(member=member, reason=reason)
        ):
            return f"member {member}: {reason}"
        case events.Serving(member=member):
            return f"member {member}: its server says that it serves again"
        case events.PoolFailing(failing=failing, connected=connected, reason=reason):
            return f"{failing} of {connected} members fail, so it is not the channel: {reason}"
        case events.PoolRecovered(duration=duration):
            return f"members answer again after {duration:.1f} s"
        case events.Panicked(usable=usable, size=size):
            return f"only {usable} of {size} members are usable"
        case events.PanicEnded(duration=duration):
            return f"enough members are usable again after {duration:.1f} s"
        case events.Saturated(waiting=waiting, in_flight=in_flight):
            return f"{waiting} RPCs wait and {in_flight} run"
        case events.Closed():
            return "close() was called"
    return None
