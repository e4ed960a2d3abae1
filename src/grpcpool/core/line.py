"""What waiting in line means for one RPC, in either room: how long, and what is said to those who wait in vain."""

from __future__ import annotations

from .engine import Engine

__all__ = ["LONGEST_WAIT", "describe_closed", "describe_full", "describe_wait", "longest"]

# How long an RPC waits that has no deadline of its own, in seconds, unless ``acquire_timeout`` says otherwise: what
# people wait for a page before they give up on it.
LONGEST_WAIT = 30.0


def longest(acquire_timeout: float | None, timeout: float | None) -> float:
    """Return how long an RPC may wait, in seconds.

    Arguments:
        acquire_timeout: the pool's option.
        timeout: the RPC's own, for waiting and running together; None if it has no deadline.
    """
    if timeout is None:
        return LONGEST_WAIT if acquire_timeout is None else acquire_timeout
    return timeout if acquire_timeout is None else min(acquire_timeout, timeout)


def describe_full(engine: Engine) -> str:
    """Return what an RPC is told that finds the line full."""
    return (
        f"{_situation(engine)}, which is as many as may (max_waiting); this RPC was not sent. "
        "Send less at once, or give the pool more members or a higher max_concurrent_streams"
    )


def describe_wait(engine: Engine, waited: float) -> str:
    """Return what an RPC is told that has waited too long, in seconds."""
    return (
        f"{_situation(engine)}; this RPC waited {waited:.3g} s in the pool for its turn and was not sent, so that time "
        "went to waiting here, not to the server"
    )


def describe_closed(engine: Engine, waited: float) -> str:
    """Return what an RPC is told whose pool was closed while it waited, after so many seconds."""
    return (
        f"pool {engine.machine.policy.name!r} was closed while this RPC waited in it for its turn, for {waited:.3g} s "
        "by then; it was not sent"
    )


def _situation(engine: Engine) -> str:
    admission = engine.admission
    members = engine.generation.eligible
    in_flight = sum(len(member.leases) for member in members)
    return (
        f"pool {engine.machine.policy.name!r} is full: its {len(members)} members (size {engine.machine.size}) have "
        f"{in_flight} RPCs in flight, with max_concurrent_streams={admission.cap}, and {admission.waiting} more wait"
    )
