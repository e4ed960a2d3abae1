"""Second chances for RPCs: what the rooms know about one that failed, made into what the core decides by."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import grpc

from . import retry
from .config import PoolConfig
from .core.course import NOTHING, Course, End, Plan
from .core.engine import Engine
from .core.lease import Lease
from .core.member import Member
from .core.quantile import Usual
from .outcome import dropped, not_connected, pushback, unseen

__all__ = [
    "LOOKS",
    "LOOK_EVERY",
    "PREVIOUS_ATTEMPTS",
    "Failover",
    "NoRoom",
    "can_repeat",
    "numbered",
    "only_elsewhere",
    "snapshot",
]

# How often, and after how many seconds each time, it is looked whether the connection has ended on which an RPC was
# dropped: a tenth of a second in all, which is a long time for a goodbye that follows at once.
LOOKS, LOOK_EVERY = 20, 0.005
# How a server is told how often it, or another one, may have seen the RPC already (gRFC A6).
PREVIOUS_ATTEMPTS = "grpc-previous-rpc-attempts"


class Failover:
    """What is done for the RPCs of one pool that fail. Thread-safe.

    Arguments:
        config: None: nothing is done.
        is_connected: says whether a member's channel is connected at this moment.
    """

    def __init__(self, engine: Engine, config: PoolConfig | None, is_connected: Callable[[Member], bool]) -> None:
        self._engine = engine
        self._config = config
        self._is_connected = is_connected
        self._usual: dict[str, Usual] = {}

    @property
    def keyed(self) -> bool:
        """Whether the strategy asks for affinity keys."""
        return self._engine.keyed

    def plan(self, method: str | bytes, *, unary: bool, streamed: bool) -> Plan:
        """Return what may be done for the RPCs of a method.

        Arguments:
            unary: it has one request and one response.
            streamed: it has one request and a stream of responses.
        """
        config, name = self._config, _text(method)
        if config is None:
            return NOTHING
        policy = retry.for_method(config, name) if unary or streamed else None
        hedge = retry.hedge_for(config, name) if unary else None
        plan = Plan(failover=unary and config.failover, hedge_after=hedge)
        if policy is None:
            return plan if unary else NOTHING
        return plan._replace(
            failover=config.failover,
            attempts=policy.attempts,
            codes=frozenset(policy.codes),
            backoff_min=policy.backoff_min,
            backoff_max=policy.backoff_max,
        )

    def course(self, plan: Plan, member: Member) -> Course:
        """Return the course of an RPC that failed on the member."""
        course = self._engine.course(plan)
        course.tried.append(member)
        return course

    def end(self, code: grpc.StatusCode | None, details: str | None, trailing: Any, member: Member) -> End:
        """Return what is known about an attempt that failed on the member, and was not cancelled by its caller.

        Arguments:
            trailing: its trailing metadata.
        """
        lost = dropped(code, details)
        gone = (lost or not_connected(code, details)) and not self._is_connected(member)
        return End(unseen(code, details) or gone, code, pushback(trailing), gone, lost)

    def is_early(self, code: grpc.StatusCode | None, details: str | None, member: Member) -> bool:
        """Say whether there is no telling yet how an attempt ended: look again, up to `LOOKS` times.

        A server that stops may have been heard to drop an RPC a moment before its goodbye has come through.
        """
        return dropped(code, details) and self._is_connected(member)

    def has_others(self, tried: Collection[Member]) -> bool:
        """Say whether there is a connected member to send an RPC to that is not among `tried`."""
        return self._engine.has_others(tried)

    def afford(self) -> bool:
        """Ask whether one RPC more may be sent; if so, it counts."""
        return self._engine.budget.take()

    def tell(self, method: str | bytes, number: int, kind: str, code: grpc.StatusCode | None) -> None:
        """Tell the listeners that an RPC is sent for the `number`-th time.

        Arguments:
            kind: ``"failover"``, ``"retry"`` or ``"hedge"``.
            code: what it ended with before, if it did.
        """
        self._engine.retried(_text(method), number, kind, code.name if code else None)

    def usual(self, method: str | bytes) -> Usual:
        """Return how long nearly all calls of a method take."""
        return self._usual.setdefault(_text(method), Usual())


class NoRoom(Exception):
    """There is no other member with room for a second copy of an RPC."""


def only_elsewhere(source: Any, tried: Collection[Member]) -> Callable[[Lease], bool]:
    """Return what takes a lease for a second copy: on a member that is not among `tried`, or it raises `NoRoom`."""

    def take(lease: Lease) -> bool:
        # Whoever asked whether there is room may not have been the only one.
        if not source.elsewhere(lease, tried, only=True):
            raise NoRoom
        return True

    return take


def _text(method: str | bytes) -> str:
    return method.decode() if isinstance(method, bytes) else method


def can_repeat(metadata: Any) -> bool:
    """Say whether metadata can be sent again: not if they can be read only once."""
    return metadata is None or isinstance(metadata, Collection)


def snapshot(metadata: Any) -> Any:
    """Return metadata that can be sent again later, whatever becomes of those that were given."""
    return metadata if metadata is None else tuple(metadata)


def numbered(metadata: Any, previous: int) -> Any:
    """Return the metadata with the number of attempts before this one, if there were any."""
    return metadata if previous < 1 else (*(metadata or ()), (PREVIOUS_ATTEMPTS, str(previous)))
