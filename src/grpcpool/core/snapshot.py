"""What a machine knows, made into what users see."""

from __future__ import annotations

from collections import Counter

from ..stats import MemberStats, PoolStats, PoolStatus, health_of
from .admission import LineStats
from .course import SENT_NOTHING, SentAgain
from .machine import Machine

__all__ = ["describe", "stats", "status"]


def status(machine: Machine) -> PoolStatus:
    """Return the pool in one line. May be called from anywhere, while the machine works."""
    ready = machine.ready_count
    return PoolStatus(machine.policy.name, machine.size, ready, health_of(ready, machine.size))


def stats(
    machine: Machine,
    line: LineStats,
    now: float,
    *,
    listener_errors: int,
    maintenance_errors: int,
    again: SentAgain = SENT_NOTHING,
) -> PoolStats:
    """Return totals and members. May be called from anywhere, while the machine works."""
    members = tuple(
        MemberStats(
            id=slot.member.id,
            endpoint=slot.member.endpoint,
            state=slot.state,
            in_flight=slot.member.in_flight,
            calls=slot.member.picks,
            failures=slot.member.failures,
            age=now - slot.member.born,
            latency=slot.member.latency,
            last_error=slot.error,
            ejected_for=None if slot.ejection is None else max(slot.ejection.until - now, 0.0),
        )
        for slot in list(machine.slots.values())
    )
    return PoolStats(
        name=machine.policy.name,
        size=machine.size,
        min_size=machine.sizing.least,
        max_size=machine.sizing.most,
        waiting=line.waiting,
        waited=line.waited,
        waited_seconds=line.seconds,
        refused=line.refused,
        resent=line.resent,
        retries=again.retries,
        hedges=again.hedges,
        retries_refused=again.refused,
        in_flight=sum(member.in_flight for member in members),
        calls=machine.members.past_calls + sum(member.calls for member in members),
        failures=machine.members.past_failures + sum(member.failures for member in members),
        connects=machine.members.connects,
        disconnects=machine.members.disconnects,
        connect_failures=machine.members.connect_failures,
        grown=machine.sizing.grown,
        shrunk=machine.sizing.shrunk,
        recycled=machine.lifetimes.recycled,
        drained=machine.members.drained,
        ejections=machine.health.ejections.count,
        listener_errors=listener_errors,
        maintenance_errors=maintenance_errors,
        members=members,
        decisions=machine.journal.read(now),
    )


def describe(machine: Machine) -> str:
    """Return the pool's state in words, with the last connection error, for an error message."""
    phases = Counter(slot.state for slot in list(machine.slots.values()))
    members = ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items())) or "none yet"
    endpoints = ", ".join(endpoint.target for endpoint in machine.policy.endpoints)
    error = machine.members.last_error or "none was reported, so nothing has refused yet: is the address reachable?"
    return (
        f"pool {machine.policy.name!r} to {endpoints} (size {machine.size}; members: {members}); "
        f"last connection error: {error}"
    )
