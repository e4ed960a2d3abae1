"""Waiting for a member to have room, in a thread."""

from __future__ import annotations

import contextlib
import threading
from time import monotonic

from ..core.admission import Waiter
from ..core.engine import Engine
from ..core.lease import NOBODY, Lease
from ..core.line import describe_closed, describe_full, describe_wait, longest
from ..outcome import left
from .errors import RpcPoolFull, RpcPoolTimeout, RpcWaitClosed

__all__ = ["Line", "Teller"]


class Teller(threading.local):
    """Whether this is one of the threads, one for each channel, in which grpc tells that RPCs have ended.

    There callbacks of the user's run too; and what waits there for a future waits for itself, perhaps.
    """

    is_this = False


class Line:
    """The line in front of a pool's members, for callers that block.

    Arguments:
        acquire_timeout: how long an RPC may wait, in seconds; None: as long as its own deadline allows.
        hedges: whether there are RPCs of which second copies are sent.

    Attributes:
        resends: whether an RPC that the server refused to look at is sent again.
        building: held while multicallables are made and remembered.
        teller: whether this is a thread that tells the ends of RPCs; None where nobody needs to know.
    """

    def __init__(self, engine: Engine, acquire_timeout: float | None, hedges: bool = False) -> None:
        self._engine = engine
        self.teller = Teller() if hedges else None
        # Only then is it known that the server has a limit, and that it is no wonder if it refuses something.
        self.resends = engine.admission.capped
        self._acquire_timeout = acquire_timeout
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked process, where the lock may be held by a thread that does not exist."""
        # One for the whole pool, that it can be found there.
        self.building = threading.RLock()

    def resent(self) -> None:
        """Count an RPC that is sent again."""
        self._engine.admission.resent.add()

    def wait(self, lease: Lease, timeout: float | None) -> float | None:
        """Block until the lease is taken, and return what is left of the RPC's timeout.

        Arguments:
            timeout: the RPC's, in seconds; None if it has no deadline.

        Raises:
            RpcPoolFull: too many wait already.
            RpcPoolTimeout: it took too long.
            RpcWaitClosed: the pool was closed meanwhile.

        If it raises, the lease may have been taken nevertheless; give it back by `Lease.cancel`.
        """
        admission = self._engine.admission
        # A bare lock, to be released by whoever serves this waiter: that is one step, and safe even if it happens in a
        # garbage collection in the middle of this wait. An event has a lock inside that it would then wait for.
        turn = threading.Lock()
        turn.acquire()

        def wake() -> None:
            # It may have been released before, by somebody whom Ctrl-C struck then.
            with contextlib.suppress(RuntimeError):
                turn.release()

        waiter = Waiter(lease, wake)
        started = monotonic()
        limit = longest(self._acquire_timeout, timeout)
        try:
            if not admission.enter(waiter):
                raise RpcPoolFull(describe_full(self._engine))
            served = turn.acquire(timeout=min(max(limit, 0), threading.TIMEOUT_MAX))
            waited = monotonic() - started
            if not served and admission.leave(waiter):
                admission.refused.add()
                raise RpcPoolTimeout(describe_wait(self._engine, waited))
            if not served:
                # It is its turn at this very moment.
                turn.acquire()
        except BaseException:
            # Also Ctrl-C, at any step. Only if its fate is settled, and all is done, its lease is known.
            if not admission.leave(waiter):
                admission.serve()
                if not waiter.done:
                    turn.acquire()
            raise
        if lease.member is NOBODY:
            raise RpcWaitClosed(describe_closed(self._engine, waited))
        return left(timeout, started)
