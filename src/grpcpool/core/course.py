"""Whether an RPC that failed is sent again, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .member import Member

__all__ = ["NOTHING", "SENT_NOTHING", "Course", "End", "Plan", "SentAgain"]


class Plan(NamedTuple):
    """What may be done for the RPCs of one method that fail.

    Attributes:
        failover: one that never reached a server may be sent to another member, once.
        attempts: how often one may be sent in all, whatever became of it; 1: it is not idempotent, or shall not be.
        codes: the statuses after which it is worth another attempt.
        backoff_min, backoff_max: the longest wait before the second attempt, and before any, in seconds.
        hedge_after: seconds after which a second copy of one that is not answered is sent to another member; 0: after
            the time in which 95 of 100 are answered; None: never.
    """

    failover: bool = True
    attempts: int = 1
    codes: frozenset[Any] = frozenset()
    backoff_min: float = 0.05
    backoff_max: float = 1.0
    hedge_after: float | None = None

    @property
    def careful(self) -> bool:
        """Whether more is to be done than what can be left to the error path of an ordinary call."""
        return self.attempts > 1 or self.hedge_after is not None


NOTHING = Plan(failover=False)


class End(NamedTuple):
    """How an attempt failed.

    Attributes:
        untouched: no server has looked at the RPC, that is certain.
        code: its status.
        pushback: what the server said about when to come back, in seconds: below 0, never; None, nothing.
        unsent: nor has it been sent, for there is no connection: to send it elsewhere is to send it once.
        lost: nobody is likely to have looked at the RPC, though that is not certain.
    """

    untouched: bool
    code: Any
    pushback: float | None = None
    unsent: bool = False
    lost: bool = False


class SentAgain(NamedTuple):
    """How often RPCs were sent once more, and how often they were not because the budget was spent."""

    retries: int = 0
    hedges: int = 0
    refused: int = 0


SENT_NOTHING = SentAgain()


class Course:
    """The attempts of one RPC. Not thread-safe: an RPC has one attempt after the other.

    Arguments:
        plan: what may be done.
        afford: asked whether one RPC more may be sent at all.
        uniform: draws a number between two.

    Attributes:
        kind: of the attempt that comes next: ``"failover"`` or ``"retry"``.
        counted: attempts that may have reached a server, the first one included (gRFC A6 counts like that).
        tried: the members that it was sent to.
    """

    __slots__ = ("_afford", "_moved", "_plan", "_uniform", "counted", "kind", "tried")

    def __init__(self, plan: Plan, afford: Callable[[], bool], uniform: Callable[[float, float], float]) -> None:
        self._plan = plan
        self._afford = afford
        self._uniform = uniform
        self._moved = False
        self.counted = 1
        self.kind = ""
        self.tried: list[Member] = []

    def next(self, end: End, *, others: bool, left: float | None) -> float | None:
        """Return for how many seconds to rest before the next attempt; None: there is none.

        Arguments:
            others: there are connected members that it was not sent to yet.
            left: seconds that the RPC has left; None if it has no deadline.
        """
        plan = self._plan
        if end.untouched and others and plan.failover and not self._moved:
            # To another member, where nothing speaks against it; so at once.
            if not end.unsent and not self._afford():
                return None
            self._moved = True
            self.kind = "failover"
            return 0.0
        pushback = end.pushback
        passing = end.untouched or end.lost or end.code in plan.codes
        if self.counted >= plan.attempts or not passing or (pushback is not None and pushback < 0):
            return None
        # gRFC A6: any time up to one that doubles with each attempt, so that those who failed together do not come
        # back together.
        rest = pushback
        if rest is None:
            rest = self._uniform(0, min(plan.backoff_min * 2 ** (self.counted - 1), plan.backoff_max))
        if (left is not None and rest >= left) or not self._afford():
            return None
        self.counted += 1
        self.kind = "retry"
        return rest
