"""The members of one pool: how each connects, fails, is tried again, pinged, replaced and let go.

What an observation means for a member is one table, `TRANSITIONS`; a pair of phase and observation that is not in it
does not exist.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from .. import events
from ..endpoint import Endpoint, place
from .backoff import backoff, patience
from .connectivity import Connectivity
from .member import Member
from .messages import CloseChannel, Connect, Effect, Emit, Explain, OpenChannels, Ping, Prime
from .slot import Condition, Phase, Policy, Slot
from .window import Window

__all__ = ["TRANSITIONS", "Members"]

# So many endpoints at most are tried at an even pace while RPCs find nobody; of the others, one each `backoff_min`.
# An attempt costs about 1.3 ms of CPU, most of it in grpc, so these take less than 1 % of a core.
MOST_EAGER = 4
# One that has not connected within so many times `backoff_min` gets a fresh channel: an attempt may hang for as long as
# `connect_timeout`, and addresses change.
STALE = 5
# So many times `backoff_min` without an RPC that found nobody, and nobody is waiting any more.
FORGOTTEN = 2
# How often a primer may fail before a resize, or the member that was to be replaced, goes without the new one.
PRIMINGS = 3


class Members:
    """Every member there is, and what is decided about each. Part of the `Machine`, as pure as it.

    Attributes:
        slots: by member, in the order in which they were made; draining ones included.
        out: effects, in order, until somebody takes them.
        leaving: members to be retired once nobody can pick them any more.
        last_error: the last connection error, of whichever member.
        connects, disconnects, connect_failures, drained: totals.
        next_favour: before that, nothing comes of `wanted`.
        past_calls, past_failures: totals of the members that are gone.
    """

    def __init__(self, policy: Policy, rng: random.Random) -> None:
        self.slots: dict[Member, Slot] = {}
        self.out: list[Effect] = []
        self.leaving: list[Member] = []
        self.last_error: str | None = None
        self.connects = self.disconnects = self.connect_failures = self.drained = 0
        self.past_calls = self.past_failures = 0
        self._policy = policy
        self._rng = rng
        self._next_id = 0
        self.next_favour = 0.0
        # When an RPC last found nobody.
        self._wanted_at = -math.inf
        # Whose primers run, and whether their answers count: not those from before the connection was lost.
        self._primers: dict[Member, bool] = {}

    # --- coming and going

    def add(
        self,
        count: int,
        now: float,
        *,
        joining: bool = False,
        failures: int = 0,
        like: Member | None = None,
        eager: bool = False,
    ) -> list[Slot]:
        """Make new members, spread over the endpoints, and have their channels made.

        Arguments:
            like: they go where this one is, instead.
            eager: see `Member`.
        """
        slots = []
        for _ in range(count):
            taken = [slot.member.endpoint for slot in self.slots.values() if slot.phase is not Phase.DRAINING]
            endpoint = place(self._policy.endpoints, taken) if like is None else Endpoint(like.endpoint, like.weight)
            cap = self._policy.cap
            member = Member(self._next_id, endpoint.target, weight=endpoint.weight, born=now, limit=cap, eager=eager)
            self._next_id += 1
            member.forgive(self._policy.max_consecutive_failures)
            condition = Condition(Window(self._policy.health_window))
            slot = Slot(member, now, condition, joining=joining, failures=failures)
            self.slots[member] = slot
            slots.append(slot)
        self.out.append(OpenChannels(tuple(slot.member for slot in slots)))
        return slots

    def connected(self) -> list[Slot]:
        """Return those that are connected, and neither being primed nor draining; ejected ones included."""
        return [slot for slot in self.slots.values() if slot.phase is Phase.READY]

    def built(self, built: Sequence[Member], failed: Sequence[tuple[Member, str]], now: float) -> None:
        """Take in which channels could be made, and which could not and why."""
        for member in built:
            slot = self.slots.get(member)
            if slot is None:
                # Closed (with abort) while its channel was being made: nobody else will ever close that channel.
                self.out.append(CloseChannel(member))
                continue
            slot.built = True
            if slot.phase is Phase.DRAINING:
                continue
            slot.phase = Phase.CONNECTING
            self.out.append(Connect(member))
        for member, error in failed:
            slot = self.slots.get(member)
            if slot is not None and slot.phase is not Phase.DRAINING:
                slot.phase = Phase.DOWN
                self._attempt_failed(slot, error, now)

    def retire(self, slot: Slot, reason: str, now: float) -> None:
        """Let the member take no new RPC; it goes when its last one has ended, or at the end of ``drain_timeout``."""
        if slot.phase is not Phase.DRAINING:
            slot.phase = Phase.DRAINING
            slot.leaves = reason
            slot.since = now
            slot.due = None if self._policy.drain_timeout is None else now + self._policy.drain_timeout
            self.leaving.append(slot.member)

    def remove(self, slot: Slot, reason: str, now: float) -> None:
        """Close a retired member's channel, which ends what still runs there, and forget the member."""
        member = slot.member
        cancelled = len(member.leases)
        del self.slots[member]
        self._primers.pop(member, None)
        self.past_calls += member.picks
        self.past_failures += member.failures
        if slot.built:
            self.out.append(CloseChannel(member))
        self.drained += 1
        waited = now - slot.since
        self.emit(events.Drained(duration=waited, cancelled=cancelled, reason=slot.leaves, **self._about(slot)))
        if slot.ready_since is not None:
            self.disconnects += 1
            self.emit(events.Disconnected(uptime=now - slot.ready_since, reason=reason, **self._about(slot)))

    # --- connectivity

    def observed(self, slot: Slot, state: Connectivity, now: float) -> None:
        """Take in that the member's channel was seen in `state`."""
        TRANSITIONS[slot.phase, state](self, slot, state, now)

    def _on_connected(self, slot: Slot, state: Connectivity, now: float) -> None:
        if not self._policy.primed:
            self._admit(slot, now)
        elif slot.primings:
            # The primer failed on the channel before; with another one it has to wait all the same.
            slot.phase = Phase.PRIMING
            slot.trying = False
            slot.due = self._next_priming(slot, now)
        else:
            self._prime(slot, now)

    def _next_priming(self, slot: Slot, now: float) -> float:
        least, most = self._policy.backoff_min, self._policy.backoff_max
        return now + backoff(slot.primings, minimum=least, maximum=most, rng=self._rng)

    def _prime(self, slot: Slot, now: float) -> None:
        slot.phase = Phase.PRIMING
        slot.trying = False
        slot.due = now + self._policy.primer_timeout
        # One that still runs, from before the connection was lost, is waited for: there are never two on one channel.
        if slot.member not in self._primers:
            self._primers[slot.member] = True
            self.out.append(Prime(slot.member))

    def primed(self, slot: Slot, error: str | None, now: float) -> None:
        """Take in how the primer went; `error` is None if the member may be picked now."""
        counts = self._primers.pop(slot.member, None)
        if counts is None or slot.phase is not Phase.PRIMING:
            # It was given up, or the connection was lost meanwhile.
            return
        if not counts:
            self._prime(slot, now)
        elif error is None:
            self._admit(slot, now)
        else:
            self._priming_failed(slot, error, now)

    def _priming_failed(self, slot: Slot, error: str, now: float) -> None:
        slot.primings += 1
        slot.error = self.last_error = error
        self.emit(events.PrimerFailed(error=error, attempt=slot.primings, **self._about(slot)))
        if slot.joining and slot.primings >= PRIMINGS:
            slot.gave_up = error
        slot.due = self._next_priming(slot, now)

    def _prime_again(self, slot: Slot, now: float) -> None:
        if slot.member not in self._primers:
            self._prime(slot, now)
            return
        # It may go on for ever, on that channel; so there must be another.
        self._priming_failed(slot, f"the primer did not return within {self._policy.primer_timeout:g} s", now)
        if slot.joining:
            slot.gave_up = slot.error
        else:
            self._replace(slot, now)

    def _admit(self, slot: Slot, now: float) -> None:
        """Let the member be picked from now on."""
        # The first sign of life after failures. (One that was never in doubt tells nothing about the others.)
        back = slot.failures > 0
        slot.phase = Phase.READY
        slot.returned = now if back else None
        slot.ready_since = slot.busy_at = now
        slot.failures = slot.primings = 0
        slot.trying = False
        slot.error = None
        slot.picks = -1
        slot.due = None if self._policy.ping_interval is None else now + self._policy.ping_interval
        # Whether it may replace another is for `Lifetimes` to say.
        slot.joining = slot.replaces is not None
        self.connects += 1
        slot.connection = self.connects
        self.emit(events.Connected(duration=now - slot.since, **self._about(slot)))
        if back:
            self._revive(slot.member.endpoint, now)

    def _on_lost(self, slot: Slot, state: Connectivity, now: float) -> None:
        reason = f"the connection was lost (channel {state.value})"
        self._lose(slot, reason, now)
        slot.since = now
        slot.due = None
        if slot.member in self._primers:
            self._primers[slot.member] = False
        if state is Connectivity.TRANSIENT_FAILURE:
            slot.phase = Phase.DOWN
            self._explain(slot)
            return
        slot.phase = Phase.CONNECTING
        self.out.append(Connect(slot.member))

    def _on_connect_failed(self, slot: Slot, state: Connectivity, now: float) -> None:
        slot.phase = Phase.DOWN
        self._explain(slot)

    def _on_idle(self, slot: Slot, state: Connectivity, now: float) -> None:
        self.out.append(Connect(slot.member))

    def _on_shutdown(self, slot: Slot, state: Connectivity, now: float) -> None:
        reason = "its channel was closed from outside the pool"
        self._lose(slot, reason, now)
        if slot.joining:
            slot.gave_up = reason
        else:
            self._replace(slot, now)

    def _stay(self, slot: Slot, state: Connectivity, now: float) -> None:
        """Nothing to do: the observation is what the phase stands for, or comes too late to matter."""

    # --- attempts

    def explained(self, slot: Slot, error: str | None, now: float) -> None:
        """Take in why the member does not connect; None: it answered after all."""
        slot.busy = False
        if slot.phase is not Phase.DOWN:
            return
        if error is not None:
            self._attempt_failed(slot, error, now)
        else:
            # It answered, so it will be seen as ready in a moment. Should that not happen, look again.
            slot.due = now + self._policy.backoff_min

    def _attempt_failed(self, slot: Slot, error: str, now: float) -> None:
        slot.failures += 1
        slot.error = self.last_error = error
        self.connect_failures += 1
        self.emit(events.ConnectFailed(duration=now - slot.since, error=error, **self._about(slot)))
        if slot.joining:
            slot.gave_up = error
            return
        if slot.built and slot.failures % self._policy.max_reconnect_attempts == 0:
            self._replace(slot, now)
            return
        delay = backoff(
            slot.failures, minimum=self._policy.backoff_min, maximum=self._policy.backoff_max, rng=self._rng
        )
        slot.due = now + delay
        self.emit(events.ReconnectScheduled(delay=delay, attempt=slot.failures, reason=error, **self._about(slot)))

    def _retry(self, slot: Slot, now: float) -> None:
        if not slot.built:
            slot.since = now
            self.out.append(OpenChannels((slot.member,)))
        elif slot.member.eager and now - self._wanted_at >= FORGOTTEN * self._policy.backoff_min:
            self._replace(slot, now)
        elif not slot.trying:
            # The attempt itself is grpc's, on a schedule like ours but with a jitter of its own.
            slot.trying = True
            slot.since = now
            slot.due = now + patience(slot.failures, minimum=self._policy.backoff_min, maximum=self._policy.backoff_max)
            self.out.append(Connect(slot.member))
        else:
            slot.trying = False
            self._explain(slot)

    def _replace(self, slot: Slot, now: float, *, eager: bool = False) -> None:
        """Let a fresh channel take the member's place. The old one stays until its last RPC has ended."""
        self.retire(slot, slot.error or "its connection was lost", now)
        # The failures go along, so that the waits keep growing: a channel made anew starts with quick attempts of its
        # own anyway, and making channels is not free (create and close leak a little in grpc).
        where = slot.member if eager else None
        successor = self.add(1, now, failures=slot.failures, like=where, eager=eager)[0]
        successor.error = slot.error
        successor.primings = slot.primings
        # To another connection everything may look different; so it is tried first, but does not begin anew.
        successor.ejection = slot.ejection
        successor.condition.take_over(slot.condition)
        self.emit(events.Rebuilt(replacement=successor.member.id, attempts=slot.failures, **self._about(slot)))

    # --- demand

    def wanted(self, now: float) -> None:
        """An RPC found nobody to go to: have connections tried at once, whatever is waited for, and often from now on.

        A channel that has failed sits out its backoff, up to half a minute, even if the server is back; and there is
        no way to make it try earlier, but a fresh channel tries at once. So those that have waited longest get one,
        which the RPC then waits for as it would with a plain channel that was idle. It is an eager one, for it is not
        known which endpoint will be back first; and only as long as RPCs find nobody. Where there are many endpoints,
        a few are tried like that, and the others get a fresh channel in turn. At most once per ``backoff_min``, for
        channels are not free, and all of the RPCs of a moment can wait for the same ones.
        """
        self._wanted_at = now
        if now < self.next_favour:
            return
        slots = [slot for slot in self.slots.values() if slot.phase is not Phase.DRAINING and not slot.joining]
        if any(slot.phase is not Phase.DOWN for slot in slots):
            return
        pause = self._policy.backoff_min
        self.next_favour = now + pause
        eager = {slot.member.endpoint: slot for slot in slots if slot.member.eager}
        waiting = [slot for slot in slots if slot.built and slot.member.endpoint not in eager]
        first: dict[str, Slot] = {}
        for slot in sorted(waiting, key=lambda slot: slot.since):
            first.setdefault(slot.member.endpoint, slot)
        room = MOST_EAGER - len(eager)
        for slot in list(first.values())[: max(room, 1)]:
            self._replace(slot, now, eager=room > 0)
        for slot in eager.values():
            if slot.built and now - slot.member.born >= STALE * pause:
                self._replace(slot, now, eager=True)

    def _revive(self, endpoint: str, now: float) -> None:
        """Somebody reached this endpoint: those that wait for it need not wait any longer."""
        for slot in list(self.slots.values()):
            if slot.member.endpoint == endpoint and slot.phase is Phase.DOWN and slot.built and not slot.joining:
                self._replace(slot, now)

    # --- time

    def due(self, now: float) -> None:
        """Do what was to be done about each member by now."""
        for slot in list(self.slots.values()):
            if slot.due is not None and now >= slot.due:
                slot.due = None
                if slot.phase is Phase.READY:
                    self._consider_ping(slot, now)
                elif slot.phase is Phase.PRIMING:
                    self._prime_again(slot, now)
                elif slot.phase is Phase.DRAINING:
                    self.remove(slot, f"it was drained for {self._policy.drain_timeout:g} s (drain_timeout)", now)
                else:
                    self._retry(slot, now)

    def _consider_ping(self, slot: Slot, now: float) -> None:
        assert self._policy.ping_interval is not None
        picks = slot.member.picks
        idle = picks == slot.picks and not slot.member.leases
        slot.picks = picks
        if idle and not slot.busy:
            slot.busy = True
            self.out.append(Ping(slot.member))
        else:
            slot.due = now + self._policy.ping_interval

    def answered(self, slot: Slot) -> None:
        """Take in that a ping has ended, however it went."""
        slot.busy = slot.asked = False
        if slot.phase is Phase.DOWN:
            self._explain(slot)

    def pinged(self, slot: Slot, duration: float, error: str | None, now: float) -> None:
        """Take in how a ping of an idle member went; `error` is None if the member is alive."""
        if slot.phase is not Phase.READY:
            return
        if error is None:
            self.emit(events.Pinged(duration=duration, result="alive", **self._about(slot)))
            slot.due = now + (self._policy.ping_interval or 0)
            return
        self.emit(events.Pinged(duration=duration, result="dead", detail=error, **self._about(slot)))
        slot.error = self.last_error = error
        self._lose(slot, f"a ping failed: {error}", now)
        if slot.joining:
            slot.gave_up = error
        else:
            self._replace(slot, now)

    def _lose(self, slot: Slot, reason: str, now: float) -> None:
        if slot.ready_since is None:
            return
        uptime, slot.ready_since, slot.due = now - slot.ready_since, None, None
        self.disconnects += 1
        self.emit(events.ConnectionDown(reason=reason, **self._about(slot)))
        self.emit(events.Disconnected(uptime=uptime, reason=reason, **self._about(slot)))

    def _explain(self, slot: Slot) -> None:
        if not slot.busy:
            slot.busy = True
            self.out.append(Explain(slot.member))

    # --- small change

    def emit(self, event: events.Event) -> None:
        """Have the listeners told."""
        self.out.append(Emit(event))

    def tell(self, kind: type[events.MemberEvent], slot: Slot, **fields: Any) -> None:
        """Have the listeners told something about this member."""
        self.emit(kind(**self._about(slot), **fields))

    def _about(self, slot: Slot) -> dict[str, Any]:
        return {"pool": self._policy.name, "member": slot.member.id, "endpoint": slot.member.endpoint}


_Action = Callable[[Members, Slot, Connectivity, float], None]

# What an observation means in each phase. READY after TRANSIENT_FAILURE is the good end of grpc's own retries; IDLE
# wherever a connection is wanted is answered by asking for one; a draining member is nobody's business any more.
TRANSITIONS: dict[tuple[Phase, Connectivity], _Action] = {
    (Phase.CONNECTING, Connectivity.IDLE): Members._on_idle,
    (Phase.CONNECTING, Connectivity.CONNECTING): Members._stay,
    (Phase.CONNECTING, Connectivity.READY): Members._on_connected,
    (Phase.CONNECTING, Connectivity.TRANSIENT_FAILURE): Members._on_connect_failed,
    (Phase.CONNECTING, Connectivity.SHUTDOWN): Members._on_shutdown,
    (Phase.PRIMING, Connectivity.IDLE): Members._on_lost,
    (Phase.PRIMING, Connectivity.CONNECTING): Members._on_lost,
    (Phase.PRIMING, Connectivity.READY): Members._stay,
    (Phase.PRIMING, Connectivity.TRANSIENT_FAILURE): Members._on_lost,
    (Phase.PRIMING, Connectivity.SHUTDOWN): Members._on_shutdown,
    (Phase.READY, Connectivity.IDLE): Members._on_lost,
    (Phase.READY, Connectivity.CONNECTING): Members._on_lost,
    (Phase.READY, Connectivity.READY): Members._stay,
    (Phase.READY, Connectivity.TRANSIENT_FAILURE): Members._on_lost,
    (Phase.READY, Connectivity.SHUTDOWN): Members._on_shutdown,
    (Phase.DOWN, Connectivity.IDLE): Members._on_idle,
    (Phase.DOWN, Connectivity.CONNECTING): Members._stay,
    (Phase.DOWN, Connectivity.READY): Members._on_connected,
    (Phase.DOWN, Connectivity.TRANSIENT_FAILURE): Members._stay,
    (Phase.DOWN, Connectivity.SHUTDOWN): Members._on_shutdown,
    (Phase.DRAINING, Connectivity.IDLE): Members._stay,
    (Phase.DRAINING, Connectivity.CONNECTING): Members._stay,
    (Phase.DRAINING, Connectivity.READY): Members._stay,
    (Phase.DRAINING, Connectivity.TRANSIENT_FAILURE): Members._stay,
    (Phase.DRAINING, Connectivity.SHUTDOWN): Members._stay,
}
