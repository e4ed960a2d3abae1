"""How many members a pool has: resizes that are asked for, and those that the load asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .. import events
from ..errors import PoolClosed, ScalingError
from .elastic import Elasticity
from .members import Members
from .messages import Resize
from .slot import Phase, Policy, Slot

__all__ = ["Sizing"]

ASKED = "it was asked for"


@dataclass(slots=True)
class _Growth:
    """A resize upwards that waits for its members to connect."""

    ticket: Any
    requested: int
    started: float
    deadline: float
    reason: str
    waiting: list[Slot] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Sizing:
    """Makes the pool larger and smaller. Part of the `Machine`, as pure as it.

    Arguments:
        answer: settles a ticket, with the size or with what went wrong.

    Attributes:
        size: how many members the pool should have.
        least, most: between what the load may move it.
        grown, shrunk: members added and taken out since the pool was made, the first ones not counted.
    """

    def __init__(self, policy: Policy, members: Members, answer: Callable[[Any, int | Exception], object]) -> None:
        self.size = policy.size
        self.least, self.most = (policy.size, policy.size) if policy.band is None else policy.bounds
        self.grown = self.shrunk = 0
        self._policy = policy
        self._members = members
        self._answer = answer
        self._growth: _Growth | None = None
        self._elasticity = None if policy.band is None else Elasticity(*policy.band, policy.scale_down_interval)

    @property
    def expected(self) -> int:
        """How many members there should be at this moment, those included that have joined before a resize is over."""
        growth = self._growth
        return self.size if growth is None else self.size + growth.requested - len(growth.waiting) - len(growth.errors)

    @property
    def deadline(self) -> float | None:
        """When those that connect for a resize should have done so; None if none is under way."""
        return None if self._growth is None else self._growth.deadline

    # --- asked for

    def resize(self, message: Resize, now: float) -> None:
        """Bring the pool to the size asked for. The bounds move along where it lies beyond them."""
        wanted = self.size + message.by if message.to is None else message.to
        problem = self._why_not(wanted)
        if problem is not None:
            self._answer(message.ticket, problem)
        elif wanted > self.size:
            self._grow(wanted, message.ticket, ASKED, now)
        else:
            if wanted < self.size:
                self._shrink(self.least_needed(self.size - wanted), ASKED, now)
                self._move_bounds()
            self._answer(message.ticket, wanted)

    def _why_not(self, wanted: int) -> Exception | None:
        name = self._policy.name
        if self._growth is not None:
            return ScalingError(
                f"pool {name!r} is already scaling: {len(self._growth.waiting)} of {self._growth.requested} new "
                "members are still connecting; try again when that resize has returned",
                size=self.size,
            )
        if wanted < 1:
            return ScalingError(
                f"pool {name!r} has {self.size} members and must keep at least one; nothing was changed "
                f"(a size of {wanted} was asked for; close() ends a pool)",
                size=self.size,
            )
        return None

    def _move_bounds(self) -> None:
        if self._elasticity is None:
            self.least = self.most = self.size
        self.least, self.most = min(self.least, self.size), max(self.most, self.size)

    # --- asked for by the load

    def measure(self, waiting: int, now: float) -> None:
        """Look at the load, and change the size if it should.

        Arguments:
            waiting: RPCs that wait for room.
        """
        if self._elasticity is None or self._growth is not None:
            return
        in_flight = sum(len(slot.member.leases) for slot in self._members.slots.values() if slot.active)
        verdict = self._elasticity.judge(
            now, size=self.size, least=self.least, most=self.most, in_flight=in_flight, waiting=waiting
        )
        if verdict is not None:
            wanted, reason = verdict
            if wanted > self.size:
                self._grow(wanted, None, reason, now)
            else:
                self._shrink(self.least_needed(self.size - wanted), reason, now)
        elif self._policy.max_idle is not None:
            self._let_go_of_idle(self._policy.max_idle, now)

    def _let_go_of_idle(self, max_idle: float, now: float) -> None:
        for slot in list(self._members.slots.values()):
            if slot.phase is not Phase.READY or slot.replaces is not None:
                continue
            picks = slot.member.picks
            if slot.member.leases or picks != slot.served:
                slot.served, slot.busy_at = picks, now
            elif now - slot.busy_at >= max_idle and self.size > self.least and self._is_spare(slot):
                self._shrink([slot], f"member {slot.member.id} was idle for {max_idle:g} s", now)

    def _is_spare(self, slot: Slot) -> bool:
        """Say whether another member to the same endpoint is connected."""
        others = (other for other in self._members.slots.values() if other is not slot and other.phase is Phase.READY)
        return any(other.member.endpoint == slot.member.endpoint for other in others)

    # --- how

    def _grow(self, wanted: int, ticket: Any, reason: str, now: float) -> None:
        self._forget()
        change = wanted - self.size
        self._growth = _Growth(ticket, change, now, now + self._policy.connect_timeout, reason)
        self._growth.waiting.extend(self._members.add(change, now, joining=True))

    def _shrink(self, leaving: list[Slot], reason: str, now: float) -> None:
        self._forget()
        for slot in leaving:
            self._members.retire(slot, f"the pool shrank: {reason}", now)
        count = len(leaving)
        self.size -= count
        self.shrunk += count
        self._tell(events.ScaledDown, now, now, count, count, reason)

    def _forget(self) -> None:
        if self._elasticity is not None:
            self._elasticity.forget()

    def least_needed(self, count: int) -> list[Slot]:
        """Choose who leaves: of the fullest endpoint, the unconnected and ejected first, then who has least to do."""
        # One that has just connected to replace another counts only when it has done so.
        staying = [slot for slot in self._members.slots.values() if slot.active and slot.replaces is None]
        chosen = []
        for _ in range(count):
            crowd: dict[str, int] = {}
            for slot in staying:
                crowd[slot.member.endpoint] = crowd.get(slot.member.endpoint, 0) + 1
            leaver = min(
                staying,
                key=lambda slot: (
                    -crowd[slot.member.endpoint],
                    slot.phase is Phase.READY,
                    slot.usable,
                    slot.member.in_flight,
                    -slot.member.id,
                ),
            )
            staying.remove(leaver)
            chosen.append(leaver)
        return chosen

    # --- what becomes of it

    def expire(self, now: float) -> None:
        """Give up on members that should have connected by now."""
        if self._growth is not None and now >= self._growth.deadline:
            # One that has connected at this very moment is no longer joining.
            for slot in (slot for slot in self._growth.waiting if slot.joining):
                what = "was not primed" if slot.phase is Phase.PRIMING else "did not connect"
                took = f"{self._policy.connect_timeout:g} s"
                slot.gave_up = slot.error or f"{slot.member.endpoint} {what} within {took}"

    def advance(self, now: float) -> None:
        """See who has joined, or will not, and end the resize when that is known of all."""
        growth = self._growth
        if growth is None:
            return
        for slot in list(growth.waiting):
            if slot.gave_up is not None:
                growth.errors.append(slot.gave_up)
                self._members.retire(slot, f"it did not join: {slot.gave_up}", now)
            if slot.gave_up is not None or not slot.joining:
                growth.waiting.remove(slot)
        if not growth.waiting:
            self._growth = None
            self._conclude(growth, now)

    def _conclude(self, growth: _Growth, now: float) -> None:
        failed = len(growth.errors)
        succeeded = growth.requested - failed
        self.size += succeeded
        self.grown += succeeded
        self._move_bounds()
        self._tell(events.ScaledUp, growth.started, now, growth.requested, succeeded, growth.reason)
        if not failed:
            self._answer(growth.ticket, self.size)
            return
        if self._elasticity is not None:
            self._elasticity.pause(now + self._policy.backoff_min)
        self._answer(
            growth.ticket,
            ScalingError(
                f"pool {self._policy.name!r} was to grow by {growth.requested} but grew by {succeeded}: "
                f"{failed} new members did not connect; its size is {self.size}; last error: {growth.errors[-1]}",
                size=self.size,
                requested=growth.requested,
                succeeded=succeeded,
                failed=failed,
            ),
        )

    def close(self) -> None:
        """Tell whoever waits for a resize that the pool was closed."""
        if self._growth is not None:
            problem = PoolClosed(f"pool {self._policy.name!r} was closed during the resize")
            self._answer(self._growth.ticket, problem)
            self._growth = None

    def _tell(
        self,
        kind: type[events.ScaledUp | events.ScaledDown],
        started: float,
        now: float,
        requested: int,
        succeeded: int,
        reason: str,
    ) -> None:
        self._members.emit(
            kind(
                pool=self._policy.name,
                duration=now - started,
                requested=requested,
                succeeded=succeeded,
                failed=requested - succeeded,
                new_size=self.size,
                reason=reason,
            )
        )
