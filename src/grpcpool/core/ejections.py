"""Members that are out of the picks for a while, and how they come back."""

from __future__ import annotations

import random
from collections import deque

from .. import events
from .members import Members
from .messages import Ping
from .sizing import Sizing
from .slot import Ejection, Policy, Slot

__all__ = ["SPAN", "Ejections"]

# Of so many members one may be ejected within a `SPAN` of seconds, of twice as many two: what goes wrong for all must
# not empty the pool before it is seen to be the same for all.
ONE_IN = 3
SPAN = 1.0
# That a member is spared is told so often at most, in seconds, for as long as it does badly.
SPARED_EVERY = 10.0
# Each ejection in a row lasts so many times as long as the one before, give or take that share at random: clients that
# saw the same server fail need not all come back at the same moment.
GROWTH = 2
JITTER = 0.1
# A member that is out is pinged so often, in seconds. It is silent if that takes longer than `DEAF`; and may take
# `PING_TIMEOUT`, for a ping may be lost, and the next one should not wait too long for it.
PING_EVERY = 1.0
DEAF = 1.0
PING_TIMEOUT = 2.0
# The RPC that decides about a member is looked at so often while it runs, in seconds; if it runs on for `PATIENCE` that
# is good enough, unless the member is deaf; and if it never began it is given out anew after `LOST`.
PROBE_EVERY = 0.1
PATIENCE = 5.0
LOST = 1.0


class Ejections:
    """Takes members out that are said to do badly, within limits, and tries them again.

    Part of `Health`, as pure as it. A member is out for a time that grows with each time in a row. After that it is
    half open: it is given one RPC, and how that ends decides. One that was silent comes to that earlier, as soon as it
    answers a ping, and not before.

    Attributes:
        count: ejections since the pool was made.
    """

    def __init__(self, policy: Policy, members: Members, sizing: Sizing, rng: random.Random) -> None:
        self.count = 0
        self._policy = policy
        self._members = members
        self._sizing = sizing
        self._rng = rng
        self._recent: deque[float] = deque()

    def forget(self, slot: Slot, now: float) -> None:
        """Begin anew with what is held against a member."""
        condition, member = slot.condition, slot.member
        condition.window.clear()
        condition.answers, condition.blamed = member.answers, member.blamed
        condition.quiet = now
        condition.doubts, condition.patient = 0, 0.0
        condition.doubted = None
        condition.failed = False
        condition.suspected = None
        condition.pardoned = 0
        # On probation one failure is enough, whatever is allowed otherwise.
        half_open = slot.ejection is not None and slot.ejection.half_open
        member.forgive(1 if half_open else self._policy.max_consecutive_failures)

    # --- out

    def eject(self, slot: Slot, reason: str, now: float, *, silent: bool = False) -> None:
        """Take a member out, unless too few would be left.

        Arguments:
            silent: it did not answer a ping.
        """
        condition = slot.condition
        refusal = self._why_not(slot, now)
        if refusal is None:
            if now - condition.readmitted > max(condition.lasted, self._policy.ejection_min):
                condition.ejections = 0
            self._recent.append(now)
            self._begin(slot, reason, now, silent=silent)
            return
        if now >= condition.spared + SPARED_EVERY:
            condition.spared = now
            self._members.tell(events.Spared, slot, reason=f"{reason}; but {refusal}")
        self._reconsider(now)

    def _reconsider(self, now: float) -> None:
        """Try those again early that have the places of others, if they answer pings: it may not have been them."""
        for slot in list(self._members.slots.values()):
            ejection = slot.ejection
            if ejection is None or ejection.half_open or ejection.silent or ejection.deaf is not False:
                continue
            if now - ejection.since >= SPAN:
                self.try_again(slot, "another member does badly, and too few may be out", now)

    def _begin(self, slot: Slot, reason: str, now: float, *, silent: bool = False) -> None:
        condition, policy = slot.condition, self._policy
        # The exponent is capped because powers of large ones overflow a float.
        nominal = min(policy.ejection_min * GROWTH ** min(condition.ejections, 64), policy.ejection_max)
        condition.lasted = min(nominal * self._rng.uniform(1 - JITTER, 1 + JITTER), policy.ejection_max)
        condition.ejections += 1
        self.count += 1
        slot.returned = None
        slot.ejection = Ejection(now, now + condition.lasted, now, silent=silent, deaf=silent or None)
        self.forget(slot, now)
        self._members.tell(events.Ejected, slot, duration=condition.lasted, attempt=condition.ejections, reason=reason)

    def _why_not(self, slot: Slot, now: float) -> str | None:
        """Return what speaks against ejecting one more member; None: nothing."""
        size = self._sizing.size
        slots = self._members.connected()
        if not any(each.usable for each in slots if each is not slot):
            return "it is the last one that is usable"
        out = sum(each.ejection is not None for each in slots)
        if 2 * (out + 1) > size:
            return f"{out} of {size} members are out already"
        while self._recent and self._recent[0] <= now - SPAN:
            self._recent.popleft()
        if len(self._recent) >= -(-size // ONE_IN):
            return f"{len(self._recent)} have gone within {SPAN:g} s"
        return None

    # --- while it is out

    def pinged(self, ejection: Ejection, slot: Slot, duration: float, error: str | None, now: float) -> None:
        """Take in how a ping of an ejected member went."""
        late = self.is_late(duration)
        ejection.silent = ejection.silent or late
        ejection.deaf = late and error is not None
        ejection.ping_at = now + max(PING_EVERY - duration, 0)
        # Promptly: one that is always slow to answer was not silent, and is not back.
        if ejection.silent and not late and error is None and not ejection.half_open:
            self.try_again(slot, "it answers again", now)

    def is_late(self, duration: float) -> bool:
        """Say whether a ping took so long that there was silence."""
        # What fails at once is an answer too, of whoever is there; silence is something else.
        return duration >= min(DEAF, self._policy.ping_timeout * 0.9)

    def attend(self, slot: Slot, now: float) -> None:
        """Do what was due about a member by now, if it is ejected."""
        ejection = slot.ejection
        if ejection is None:
            return
        if ejection.half_open:
            self._look_at_probe(slot, ejection, now)
        elif now >= ejection.until and ejection.deaf is False:
            # Nobody's RPC is sent to find out what a ping would tell.
            self.try_again(slot, "its time is over", now)
        if slot.ejection is ejection and now >= ejection.ping_at and not slot.busy:
            self.ping(slot, PING_TIMEOUT)

    def due(self, slot: Slot) -> float | None:
        """Return when `attend` is to be called next; None: when something happens."""
        ejection = slot.ejection
        if ejection is None:
            return None
        times = [] if slot.busy else [ejection.ping_at]
        if ejection.given is not None:
            times.append(ejection.looked + PROBE_EVERY)
        elif not ejection.half_open and ejection.deaf is False:
            times.append(ejection.until)
        return min(times, default=None)

    def ping(self, slot: Slot, timeout: float) -> None:
        """Have the member pinged."""
        slot.busy = slot.asked = True
        self._members.out.append(Ping(slot.member, min(timeout, self._policy.ping_timeout)))

    # --- and back

    def try_again(self, slot: Slot, reason: str, now: float) -> None:
        """Put an ejected member on probation: it is to be given one RPC."""
        ejection = slot.ejection
        assert ejection is not None
        ejection.half_open = True
        self._members.tell(events.Probing, slot, reason=reason)
        self.forget(slot, now)
        self._offer(slot, ejection)

    def given(self, slot: Slot, now: float) -> None:
        """Take in that the member has been given its RPC."""
        if slot.ejection is not None and slot.ejection.half_open:
            slot.ejection.given = slot.ejection.looked = now

    def _offer(self, slot: Slot, ejection: Ejection) -> None:
        member = slot.member
        ejection.given = None
        ejection.before = frozenset(member.leases.copy())
        ejection.picks, ejection.answers, ejection.blamed = member.picks, member.answers, member.blamed

    def _look_at_probe(self, slot: Slot, ejection: Ejection, now: float) -> None:
        if ejection.given is None:
            return
        ejection.looked = now
        member = slot.member
        began = member.picks - ejection.picks
        leases = member.leases.copy()
        running = len(leases - ejection.before)
        # Whatever these ended with was not the probe's end.
        ended = len(ejection.before - leases)
        if began <= 0:
            # It was picked, and nothing came of it: an interceptor thought better of it, say.
            if now - ejection.given >= LOST:
                self._offer(slot, ejection)
        elif running >= began:
            if now - ejection.given >= PATIENCE and ejection.deaf is False:
                self.readmit(slot, f"an RPC has run there for {PATIENCE:g} s, and a ping was answered", now)
        elif member.answers - ejection.answers > ended:
            self.readmit(slot, "an RPC was answered", now)
        elif member.blamed - ejection.blamed > ended:
            self._begin(slot, "the RPC that it was tried with failed", now)
        else:
            # Its caller has cancelled it, or it cannot be told from the others how it ended.
            self._offer(slot, ejection)

    def readmit(self, slot: Slot, reason: str, now: float) -> None:
        """Let an ejected member be picked again."""
        ejection = slot.ejection
        assert ejection is not None
        slot.ejection = None
        slot.returned = slot.condition.readmitted = now
        self.forget(slot, now)
        self._members.tell(events.Readmitted, slot, duration=now - ejection.since, reason=reason)
