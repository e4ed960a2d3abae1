"""Connections on which nothing is heard: is the server busy, or is nobody there?"""

from __future__ import annotations

from .ejections import Ejections
from .lifetimes import Lifetimes
from .members import Members
from .slot import Policy, Slot

__all__ = ["Silence"]

# So many times `unresponsive_after` a member is silent before it is pinged although nobody else answers either.
ALL_SILENT = 5
# A member that is slow and answers pings is doubted less and less often: each time after twice as long, so many times.
MOST_DOUBTS = 5
# A connection on which no ping was answered for so long, in seconds, has been forgotten by something on the way,
# perhaps: a new one is tried, and takes its place if it comes about. (grpc's own keepalive is off by default, and the
# kernel goes on trying for a quarter of an hour.)
DEAD_AFTER = 5.0


class Silence:
    """Pings members that answer nothing while they are asked something, and has those ejected that are deaf.

    Part of `Health`, as pure as it. A busy server with slow methods is as quiet as one that has gone; but it answers a
    ping. Where the policy's `unresponsive_after` is None, nobody is pinged for that.
    """

    def __init__(self, policy: Policy, members: Members, ejections: Ejections, lifetimes: Lifetimes) -> None:
        self._policy = policy
        self._members = members
        self._ejections = ejections
        self._lifetimes = lifetimes

    def look(self, slot: Slot, now: float) -> None:
        """Ping a member that has been asked something, and silent for too long."""
        silence, condition = self._policy.unresponsive_after, slot.condition
        if silence is None or slot.busy or now < max(condition.quiet + silence, condition.patient):
            return
        alone = self._differs(slot, condition.quiet)
        if _has_timed(slot) and (alone or now >= condition.quiet + ALL_SILENT * silence):
            condition.doubted = now
            self._ejections.ping(slot, silence)

    def settle(self, slot: Slot, duration: float, error: str | None, now: float) -> None:
        """Decide about a member that was in doubt, by how its ping went."""
        condition = slot.condition
        doubted, condition.doubted = condition.doubted, None
        assert doubted is not None
        silence = self._policy.unresponsive_after or 0.0
        late = error is not None and duration >= min(silence, self._policy.ping_timeout) * 0.9
        if late and slot.member.answers <= condition.answers and self._differs(slot, doubted):
            quiet = now - condition.quiet
            reason = f"none of its RPCs was answered for {quiet:.1f} s, nor was a ping, while others were"
            self._ejections.eject(slot, reason, now, silent=True)
        else:
            condition.doubts = min(condition.doubts + 1, MOST_DOUBTS)
            condition.patient = now + silence * 2**condition.doubts

    def listen(self, slot: Slot, duration: float, error: str | None, now: float) -> None:
        """Take in how a ping went, whoever asked for it: does the connection carry anything at all?"""
        condition = slot.condition
        if error is None or not self._ejections.is_late(duration):
            self.hear(slot)
            return
        if condition.deaf is None:
            condition.deaf = now - duration
        if now - condition.deaf >= DEAD_AFTER:
            self._lifetimes.hurry(slot, f"no ping was answered for {now - condition.deaf:.0f} s", now)

    def hear(self, slot: Slot) -> None:
        """Take in that something has come from the member, or that its connection is new."""
        slot.condition.deaf = None
        self._lifetimes.spare(slot)

    def _differs(self, slot: Slot, since: float) -> bool:
        """Say whether others have answered since then; or are asked nothing, for whoever asks waits for this one."""
        others = [other for other in self._members.connected() if other is not slot]
        return any(other.condition.answered > since for other in others) or not any(map(_has_timed, others))


def _has_timed(slot: Slot) -> bool:
    # A stream may be silent for as long as it likes. Only a blocking unary RPC is known by a number, that says nothing.
    return any(getattr(token, "timed", True) for token in slot.member.leases.copy())
