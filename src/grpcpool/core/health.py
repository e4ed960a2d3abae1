"""Which of the connected members are fit to be picked."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

from .. import events
from .ejections import PING_TIMEOUT, SPAN, Ejections
from .lifetimes import AT_ONCE, Lifetimes
from .member import Member
from .members import Members
from .messages import Watch
from .outliers import FEWEST_CALLS, PERIOD, floor, is_chance, is_usual
from .silence import Silence
from .sizing import Sizing
from .slot import Phase, Policy, Slot

__all__ = ["Choice", "Health"]

# Of fewer calls no success rate is made.
FEWEST = 5
# An outlier has so many failures at least, and its rate is so much below the mean. By gRFC A50 alone one failure in a
# hundred calls would do, if the others had none.
OUTLIER_FAILURES = 5
OUTLIER_MARGIN = 0.05
# Between two looks at how members do, in seconds; or so many looks within `unresponsive_after`. But in a large pool no
# more often than that many seconds for each member: a look at one takes some microseconds.
LOOK_EVERY = 1.0
LOOKS = 4
COST = 1e-3
# While nothing happens there is little to see: so many times as seldom, but every other second.
IDLE, SELDOM = 10, 2.0
# A look that comes so much too late (the process was stopped, or its loop blocked) says nothing about the servers, and
# nor do the deadlines that have passed meanwhile. What ends within the `GRACE` after it is forgiven too, except where
# more fail in a row than were running: a server that fails what began after it is not to have a second for that.
STALL = 1.0
GRACE = 1.0
# If nobody else does well either at this moment, a member that fails is judged so much later: perhaps it is the same
# with all, and shows first here.
BENEFIT = 1.0
# Failures in a row are compared with how the others have done for so long, in seconds: what goes wrong for all at once
# (an overload, a slow moment) shows there too.
LATELY = 2.0
# How long a member waits, before it is picked, for its server to say whether it serves.
HOLD = 1.0


class Choice(NamedTuple):
    """Who may be picked; as in `Publish`."""

    ready: tuple[Member, ...]
    probes: tuple[Member, ...]
    warming: tuple[tuple[Member, float], ...]


class Health:
    """Sees which of the connected members do badly, has them taken out of the picks, and says who is left.

    Part of the `Machine`, as pure as it. Signs of doing badly are failures in a row (members count these themselves),
    a low success rate, one that stands out among others, silence while others answer, and what servers say of
    themselves. Each is off where the policy has None, or False.

    Attributes:
        ejections: who is out.
    """

    def __init__(
        self, policy: Policy, members: Members, sizing: Sizing, lifetimes: Lifetimes, rng: random.Random
    ) -> None:
        self.ejections = Ejections(policy, members, sizing, rng)
        self._policy = policy
        self._members = members
        self._sizing = sizing
        self._silence = Silence(policy, members, self.ejections, lifetimes)
        silence = policy.unresponsive_after
        signs = (policy.max_consecutive_failures, policy.min_success_rate, silence)
        self._judges = policy.outlier_detection or any(sign is not None for sign in signs)
        self._pause = LOOK_EVERY if silence is None else min(silence / LOOKS, LOOK_EVERY)
        self._look_at: float | None = None
        # RPCs that had begun on the connected members when nothing was going on at the last look; -1: something was.
        self._begun = -1
        # The last look was one of those that are seldom, for nothing happens.
        self._seldom = False
        self._looked = -math.inf
        # Until when nothing is held against anybody; None: no longer.
        self._grace: float | None = None
        # Who has said so, to be judged when everything that happened in the same moment is known.
        self._troubled: list[Slot] = []
        # Since when the pool fails as a whole, and since when members are picked that were taken out.
        self._failing: float | None = None
        self._panic: float | None = None

    # --- what happens

    def troubled(self, slot: Slot) -> None:
        """Take in that RPCs have failed on the member, as many in a row as may."""
        self._troubled.append(slot)

    def served(self, slot: Slot, serving: bool, detail: str) -> None:
        """Take in whether the member's server says that it serves."""
        condition = slot.condition
        if slot.phase is not Phase.READY:
            return
        before, condition.serving, condition.held = condition.serving, serving, None
        if serving and before is False:
            self._members.tell(events.Serving, slot)
        elif not serving and before is not False:
            self._members.tell(events.NotServing, slot, reason=detail)

    def pinged(self, slot: Slot, duration: float, error: str | None, now: float) -> None:
        """Take in how a ping went that was asked for here."""
        if slot.phase is not Phase.READY:
            return
        self._silence.listen(slot, duration, error, now)
        if slot.ejection is not None:
            self.ejections.pinged(slot.ejection, slot, duration, error, now)
        elif slot.condition.doubted is not None:
            self._silence.settle(slot, duration, error, now)

    def advance(self, now: float) -> None:
        """Take in what has changed in this moment, and do what was due by now."""
        if self._look_at is not None and now - self._look_at > STALL:
            self._pardon(now)
        connected = self._members.connected()
        for slot in connected:
            if slot.condition.connection != slot.connection:
                self._meet(slot, now)
        troubled, self._troubled = self._troubled, []
        for slot in troubled:
            if slot.phase is Phase.READY and slot.ejection is None:
                self._judge(slot, now)
        if self._judges and (self._look_at is None or now >= self._look_at):
            self._look(now)
        for slot in connected:
            self._attend(slot, now)

    def next(self) -> float | None:
        """Return when `advance` is to be called next; None: when something happens."""
        times = [self._look_at]
        for slot in self._members.connected():
            times += [slot.condition.held, self._warm_until(slot), self.ejections.due(slot)]
        return min((time for time in times if time is not None), default=None)

    def _pardon(self, now: float) -> None:
        self._grace = now + GRACE
        for slot in self._members.connected():
            self.ejections.forget(slot, now)
            slot.condition.pardoned = slot.member.in_flight

    def _meet(self, slot: Slot, now: float) -> None:
        """Begin with a member that has just connected, for the first time or once more."""
        condition = slot.condition
        condition.connection = slot.connection
        self._silence.hear(slot)
        condition.serving = condition.held = None
        self.ejections.forget(slot, now)
        if self._policy.watched:
            condition.held = now + HOLD
            self._members.out.append(Watch(slot.member))
        if slot.ejection is not None:
            self.ejections.try_again(slot, "it has connected again", now)

    def _attend(self, slot: Slot, now: float) -> None:
        condition = slot.condition
        if condition.held is not None and now >= condition.held:
            condition.held = None
        warm = self._warm_until(slot)
        if warm is not None and now >= warm:
            slot.returned = None
        self.ejections.attend(slot, now)

    def _warm_until(self, slot: Slot) -> float | None:
        if slot.returned is None or self._policy.slow_start is None:
            return None
        return slot.returned + self._policy.slow_start

    # --- looking

    def _look(self, now: float) -> None:
        slots = self._members.connected()
        self._looked = now
        idle = self._is_idle(slots)
        if idle or self._seldom:
            # What goes on now has begun since the last look, whenever that was.
            for slot in slots:
                slot.condition.quiet, slot.condition.failed = now, False
        pause = max(self._pause, min(len(slots) * COST, LOOK_EVERY))
        longer = max(pause, min(len(slots) * COST * IDLE, SELDOM))
        self._seldom = idle and longer > pause
        self._look_at = now + (longer if idle else pause)
        if idle:
            return
        for slot in slots:
            self._read(slot, now)
        if self._grace is not None:
            self._be_lenient(slots, self._grace, now)
            return
        if self._failing is not None:
            self._watch_failing(slots, self._failing, now)
            return
        for slot in slots:
            if slot.ejection is None:
                self._judge(slot, now)
        if self._policy.outlier_detection:
            self._judge_outliers([slot for slot in slots if slot.usable], now)
        for slot in slots:
            if slot.usable:
                self._silence.look(slot, now)

    def _be_lenient(self, slots: list[Slot], until: float, now: float) -> None:
        if now >= until:
            self._grace = None
            for slot in slots:
                self.ejections.forget(slot, now)
            return
        # All but the row of failures, which is to be seen to grow.
        for slot in slots:
            slot.condition.window.clear()
            slot.condition.quiet, slot.condition.failed = now, False

    def _is_idle(self, slots: list[Slot]) -> bool:
        """Say whether nothing has happened since the last look, and nothing is going on, or is to be judged yet."""
        running = any(slot.member.leases or slot.condition.suspected is not None for slot in slots)
        begun = sum(slot.member.picks for slot in slots)
        before, self._begun = self._begun, -1 if running else begun
        return before == self._begun >= 0 and self._grace is None and self._failing is None

    def _read(self, slot: Slot, now: float) -> None:
        condition, member = slot.condition, slot.member
        member.settle()
        answers, blamed = member.answers, member.blamed
        condition.window.add(now, max(answers - condition.answers, 0), blamed - condition.blamed)
        condition.failed = blamed > condition.blamed
        if answers > condition.answers:
            condition.answered = now
            self._silence.hear(slot)
        if answers > condition.answers or not member.leases:
            condition.quiet = now
            condition.doubts, condition.patient = 0, 0.0
        condition.answers, condition.blamed = max(answers, condition.answers), blamed

    def _rate(self, slot: Slot, now: float, fewest: int, seconds: float | None = None) -> float | None:
        """Return a member's success rate; None: there were too few calls."""
        answered, failed = slot.condition.window.sums(now, seconds)
        return answered / (answered + failed) if answered + failed >= fewest else None

    def _complaint(self, slot: Slot, now: float) -> str | None:
        """Return what is wrong with how a member's RPCs end; None: nothing."""
        return self._row(slot) or self._poor_rate(slot, now)

    def _row(self, slot: Slot) -> str | None:
        most, streak = self._too_many(slot), slot.member.streak
        return f"{streak} RPCs in a row failed" if most is not None and streak >= most else None

    def _too_many(self, slot: Slot) -> int | None:
        most = self._policy.max_consecutive_failures
        return None if most is None else most + slot.condition.pardoned

    def _poor_rate(self, slot: Slot, now: float) -> str | None:
        least = self._policy.min_success_rate
        rate = None if least is None else self._rate(slot, now, FEWEST)
        if least is not None and rate is not None and rate < least:
            return (
                f"{rate:.0%} of its RPCs succeeded in the last {self._policy.health_window:g} s (at least {least:.0%})"
            )
        return None

    def _judge(self, slot: Slot, now: float) -> None:
        # Nobody is ejected for what is long over: the last one has failed, or some have since the last look.
        condition = slot.condition
        lately = condition.failed or slot.member.streak or condition.suspected is not None
        complaint = self._complaint(slot, now) if lately and self._failing is None else None
        if complaint is None or self._is_pool_failing(complaint, now):
            condition.suspected = None
            return
        if condition.suspected is None:
            condition.suspected = now
        if self._stands_out(slot, now) and (self._others_do_well(slot) or now - condition.suspected >= BENEFIT):
            self.ejections.eject(slot, complaint, now)

    def _stands_out(self, slot: Slot, now: float) -> bool:
        """Say whether a member that does badly does worse than the others; by little, it is not the member."""
        if self._row(slot) and not is_chance(slot.member.streak, self._failing_elsewhere(slot, now, LATELY)):
            return True
        if self._poor_rate(slot, now) is None:
            return False
        answered, failed = slot.condition.window.sums(now)
        return not is_usual(failed, answered, self._failing_elsewhere(slot, now))

    def _failing_elsewhere(self, slot: Slot, now: float, seconds: float | None = None) -> float:
        """Return the share of RPCs that failed on the other usable members, up to this moment."""
        answered = failed = 0
        for other in self._members.connected():
            if other is not slot and other.usable:
                before = other.condition.window.sums(now, seconds)
                answered += before[0] + max(other.member.answers - other.condition.answers, 0)
                failed += before[1] + other.member.blamed - other.condition.blamed
        return failed / (answered + failed) if failed else 0.0

    def _others_do_well(self, slot: Slot) -> bool:
        others = (other for other in self._members.connected() if other is not slot and other.usable)
        return any(self._has_answered(other, self._looked) for other in others)

    def _has_answered(self, slot: Slot, since: float) -> bool:
        """Say whether a member has answered anything since it was last looked at, or was then seen to have."""
        return slot.member.answers > slot.condition.answers or slot.condition.answered >= since

    def _judge_outliers(self, slots: list[Slot], now: float) -> None:
        rates = [(self._rate(slot, now, FEWEST_CALLS, PERIOD), slot) for slot in slots]
        known = sorted(((rate, slot) for rate, slot in rates if rate is not None), key=lambda pair: pair[0])
        least = floor([rate for rate, _ in known])
        if least is None:
            return
        mean = sum(rate for rate, _ in known) / len(known)
        for rate, slot in known:
            _, failed = slot.condition.window.sums(now, PERIOD)
            if rate < min(least, mean - OUTLIER_MARGIN) and failed >= OUTLIER_FAILURES and slot.condition.failed:
                reason = f"{rate:.1%} of its RPCs succeeded in the last {PERIOD:g} s, and {mean:.1%} of all"
                self.ejections.eject(slot, reason, now)

    # --- all alike

    def _is_sick(self, slot: Slot, now: float) -> bool:
        """Say whether a member fails, or is about to be seen to."""
        most = self._too_many(slot)
        # Members that fail alike get there one after the other; for all but the first half way is enough.
        half_way = most is not None and slot.member.streak >= (most + 1) // 2
        return slot.ejection is not None or half_way or self._complaint(slot, now) is not None

    def _is_well(self, slot: Slot, now: float) -> bool:
        return self._has_answered(slot, now - SPAN - self._pause) and not self._is_sick(slot, now)

    def _is_pool_failing(self, complaint: str, now: float) -> bool:
        slots = self._members.connected()
        sick = sum(self._is_sick(slot, now) for slot in slots)
        if len(slots) < 2 or 2 * sick <= len(slots) or any(self._is_well(slot, now) for slot in slots):
            return False
        self._failing = now
        self._members.emit(
            events.PoolFailing(pool=self._policy.name, failing=sick, connected=len(slots), reason=complaint)
        )
        for slot in slots:
            slot.condition.window.clear()
            if slot.ejection is not None:
                self.ejections.readmit(slot, "it is the same with all", now)
                slot.returned = None
        return True

    def _watch_failing(self, slots: list[Slot], since: float, now: float) -> None:
        """See whether anybody does well again, going by what has ended since the last look."""
        asked = sum(slot.busy for slot in slots)
        for slot in slots:
            # Is it the connections? A few are asked at a time: if it is, new ones for those will show it.
            if self._policy.unresponsive_after is not None and not slot.busy and now >= slot.condition.patient:
                if asked >= max(len(slots) * AT_ONCE, 1):
                    break
                asked += 1
                slot.condition.patient = now + LOOK_EVERY
                self.ejections.ping(slot, PING_TIMEOUT)
        well = any(slot.condition.answered == now and not self._is_sick(slot, now) for slot in slots)
        for slot in slots:
            slot.condition.window.clear()
            if well:
                self.ejections.forget(slot, now)
        if well:
            self._failing = None
            self._members.emit(events.PoolRecovered(pool=self._policy.name, duration=now - since))

    # --- what comes of it

    def choose(self, now: float) -> Choice:
        """Return who may be picked now."""
        connected = self._members.connected()
        chosen = [slot for slot in connected if slot.usable]
        # Those whose servers are just being asked are not lost.
        left = len(chosen) + sum(slot.coming for slot in connected)
        panic = left < len(connected) and 2 * left < self._sizing.size
        if panic != (self._panic is not None):
            self._tell_panic(left, now)
        if panic:
            # Who says itself that it does not serve is the last resort.
            chosen = [slot for slot in connected if slot.serves] or connected
        probes = [slot.member for slot in connected if _is_offered(slot) and slot.serves]
        warming = [(slot.member, slot.returned) for slot in chosen if slot.returned is not None]
        slow = self._policy.slow_start is not None
        return Choice(tuple(slot.member for slot in chosen), tuple(probes), tuple(warming) if slow else ())

    def _tell_panic(self, usable: int, now: float) -> None:
        name = self._policy.name
        if self._panic is None:
            self._panic = now
            self._members.emit(events.Panicked(pool=name, usable=usable, size=self._sizing.size))
        else:
            self._members.emit(events.PanicEnded(pool=name, duration=now - self._panic))
            self._panic = None


def _is_offered(slot: Slot) -> bool:
    return slot.ejection is not None and slot.ejection.half_open and slot.ejection.given is None
