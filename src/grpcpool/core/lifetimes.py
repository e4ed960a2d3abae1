"""How old members become, who is of no more use before that, and who takes their places."""

from __future__ import annotations

import random

from .. import events
from .members import Members
from .sizing import Sizing
from .slot import Phase, Policy, Slot

__all__ = ["Lifetimes"]

# By up to this share a lifetime falls short of `max_lifetime`, at random: members that were made together, in this
# process and in all others, would else be replaced together for ever.
JITTER = 0.1
# At most this share of a pool is being replaced at a time, but one at least.
AT_ONCE = 0.1


class Lifetimes:
    """Replaces members that have become too old, or useless: first the new one is fit, then the old one drains.

    Part of the `Machine`, as pure as it.

    Attributes:
        recycled: members replaced since the pool was made.
    """

    def __init__(self, policy: Policy, members: Members, sizing: Sizing, rng: random.Random) -> None:
        self.recycled = 0
        # Whose connections are of no more use.
        self._useless: set[Slot] = set()
        self._policy = policy
        self._members = members
        self._sizing = sizing
        self._rng = rng

    def next(self) -> float | None:
        """Return when the next member will have become too old; None if none will, or if that cannot be helped yet."""
        if self._is_nobody_to_go() or self._room() <= 0:
            return None
        return min((expires for _, expires in self._candidates()), default=None)

    def advance(self, now: float) -> None:
        """Note the ages of those that have connected, and let those replace others that are to."""
        if self._is_nobody_to_go():
            return
        lifetime = self._policy.max_lifetime
        for slot in list(self._members.slots.values()):
            if lifetime is not None and slot.phase is Phase.READY and slot.expires is None:
                slot.expires = now + lifetime * (1 - JITTER * self._rng.random())
            old = slot.replaces
            if old is not None and slot.phase is not Phase.DRAINING:
                if slot.gave_up is not None:
                    self._give_up(slot, old, slot.gave_up, now)
                elif self._is_fit(slot, now):
                    if slot.serves or not old.serves:
                        self._take_over(slot, old, now)
                    else:
                        self._give_up(slot, old, "its server does not serve", now)

    def due(self, now: float) -> None:
        """Begin to replace those that are too old, as many at a time as may be."""
        if self._is_nobody_to_go():
            return
        old = sorted((pair for pair in self._candidates() if now >= pair[1]), key=lambda pair: pair[1])
        for slot, _ in old[: max(self._room(), 0)]:
            (successor,) = self._members.add(1, now, joining=True, like=slot.member)
            successor.replaces = slot
            successor.because = slot.useless or f"max_lifetime of {self._policy.max_lifetime:g} s has passed"

    def hurry(self, slot: Slot, reason: str, now: float) -> None:
        """Have the member replaced as soon as may be: its connection is of no more use."""
        if slot.useless is None:
            slot.useless, slot.hurried = reason, now
            self._useless.add(slot)

    def _is_nobody_to_go(self) -> bool:
        # Those that have left, and those that came for them, are looked after first; also if they need not have come.
        if self._useless:
            slots, replaced = self._members.slots, self._replaced()
            self._useless = {
                slot
                for slot in self._useless
                if slot in replaced or (slot.useless is not None and slot.member in slots)
            }
        return self._policy.max_lifetime is None and not self._useless

    def spare(self, slot: Slot) -> None:
        """Let the member live on: its connection has turned out to be of use after all."""
        slot.useless = None

    def _is_fit(self, slot: Slot, now: float) -> bool:
        """Say whether a new member is connected, and all is known of it that is to be known before it is picked."""
        condition = slot.condition
        if slot.phase is not Phase.READY or not self._policy.watched:
            return slot.phase is Phase.READY
        met = condition.connection == slot.connection
        return met and (condition.held is None or now >= condition.held)

    def _take_over(self, slot: Slot, old: Slot, now: float) -> None:
        slot.replaces, slot.joining = None, False
        if not old.active:
            # Somebody else has its place already, or there is none any more. Whoever leaves, it is not to be the only
            # one that is connected.
            (surplus,) = self._sizing.least_needed(1)
            self._members.retire(surplus, f"member {slot.member.id} came for one that had left already", now)
            return
        self.recycled += 1
        self._members.emit(
            events.Recycled(
                pool=self._policy.name,
                member=old.member.id,
                endpoint=old.member.endpoint,
                replacement=slot.member.id,
                age=now - old.member.born,
                reason=slot.because,
            )
        )
        self._members.retire(old, slot.because, now)

    def _give_up(self, slot: Slot, old: Slot, why: str, now: float) -> None:
        # The old one serves on, for it is better than none; and not so soon again, for whoever cannot connect is busy.
        # One that serves nobody had better go: so the next attempt comes as soon as that of a member that is down.
        # (One that has been spared meanwhile is not to go at all, or only when it is old enough.)
        if old.useless is not None:
            old.hurried = now + self._policy.backoff_min
        elif old.expires is not None and old.expires <= now:
            old.expires = now + self._policy.backoff_max
        self._members.retire(slot, f"it could not replace member {old.member.id}: {why}", now)

    def _candidates(self) -> list[tuple[Slot, float]]:
        """Return those that nobody is about to replace yet, and when each will be too old."""
        replaced = self._replaced()
        ready = [slot for slot in self._members.slots.values() if slot.phase is Phase.READY and slot not in replaced]
        dates = [(slot, slot.expires if slot.useless is None else slot.hurried) for slot in ready]
        return [(slot, date) for slot, date in dates if date is not None]

    def _replaced(self) -> set[Slot]:
        return {slot.replaces for slot in self._members.slots.values() if slot.replaces is not None}

    def _room(self) -> int:
        under_way = sum(
            slot.replaces is not None and slot.phase is not Phase.DRAINING for slot in self._members.slots.values()
        )
        return max(int(self._sizing.size * AT_ONCE), 1) - under_way
