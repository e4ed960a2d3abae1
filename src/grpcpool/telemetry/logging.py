"""State transitions on the logger ``grpcpool``."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable

from .. import events
from ..core.slot import CLOSED

__all__ = ["complain", "logger", "writer"]

logger = logging.getLogger("grpcpool")


def complain(pool: str, text: str, error: BaseException) -> None:
    """Log an exception that nobody else will hear of: its type, and where it came from.

    Not its message. It may come from code of the user's that handles secrets, and be about one.
    """
    where = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    # A filter or handler of somebody's may raise, and there is nobody left to tell.
    with contextlib.suppress(Exception):
        logger.error("pool %r: %s: %s\n%s", pool, text, type(error).__name__, where)


def writer(*, log_connection_errors: bool) -> Callable[[events.Event], None]:
    """Return a function that logs the events that are state transitions, and no others.

    Arguments:
        log_connection_errors: log failed attempts to connect too.
    """

    def write(event: events.Event) -> None:
        match event:
            case events.Connected():
                _log(logging.INFO, event, "connected after %.3f s", event.duration)
            case events.ConnectionDown():
                _log(logging.WARNING, event, "down: %s", event.reason)
            case events.ConnectFailed():
                if log_connection_errors:
                    _log(logging.WARNING, event, "cannot connect: %s", event.error)
            case events.Rebuilt():
                # No attempts: a ping failed, or its primer took too long, which has been said.
                text = "replaced by member %d" + (f" after {event.attempts} failed attempts" if event.attempts else "")
                _log(logging.WARNING, event, text, event.replacement)
            case events.Recycled():
                text = "replaced by member %d at the age of %.3f s: %s"
                _log(logging.INFO, event, text, event.replacement, event.age, event.reason)
            case events.Drained():
                _drained(event)
            case events.PrimerFailed():
                _log(logging.WARNING, event, "is not ready, attempt %d: %s", event.attempt, event.error)
            case events.Ejected():
                text = "ejected for %.3f s (%d in a row): %s"
                _log(logging.WARNING, event, text, event.duration, event.attempt, event.reason)
            case events.Spared():
                _log(logging.WARNING, event, "not ejected: %s", event.reason)
            case events.Probing():
                _log(logging.INFO, event, "is tried with one RPC: %s", event.reason)
            case events.Readmitted():
                _log(logging.INFO, event, "is back after %.3f s: %s", event.duration, event.reason)
            case events.NotServing():
                _log(logging.WARNING, event, "does not serve: %s", event.reason)
            case events.Serving():
                _log(logging.INFO, event, "serves again")
            case events.PoolFailing():
                text = "pool %r fails as a whole (%d of %d members), so nobody is ejected: %s"
                logger.warning(text, event.pool, event.failing, event.connected, event.reason)
            case events.PoolRecovered():
                logger.info("pool %r answers again after %.3f s", event.pool, event.duration)
            case events.Panicked():
                text = "pool %r has %d usable members of %d: those that were taken out are used again"
                logger.warning(text, event.pool, event.usable, event.size)
            case events.PanicEnded():
                logger.info("pool %r has enough usable members again after %.3f s", event.pool, event.duration)
            case events.Opened():
                logger.info("pool %r opened: %d members to %s", event.pool, event.size, ", ".join(event.endpoints))
            case events.Closed():
                logger.info("pool %r closed after %.3f s", event.pool, event.open_for)
            case events.ScaledUp() | events.ScaledDown():
                text = "pool %r resized to %d members in %.3f s (%d of %d): %s"
                done = (event.succeeded, event.requested)
                logger.info(text, event.pool, event.new_size, event.duration, *done, event.reason)
            case events.Saturated():
                text = "pool %r is full: %d RPCs run on %d members, and %d wait"
                logger.warning(text, event.pool, event.in_flight, event.size, event.waiting)
            case events.StrategyFailed():
                logger.error("pool %r: strategy %s: %s", event.pool, event.strategy, event.error)
            case events.MaintenanceFailed():
                logger.error("pool %r: background work failed and goes on: %s", event.pool, event.error)
            case _:
                pass

    return write


def _drained(event: events.Drained) -> None:
    text = "closed %.3f s after it left the picks: %s"
    if event.cancelled:
        # Whoever closes a pool means to end what runs.
        level = logging.INFO if event.reason == CLOSED else logging.WARNING
        _log(level, event, text + "; cancelled %d RPCs", event.duration, event.reason, event.cancelled)
    else:
        # Why it left has been said already, by whoever took it out.
        _log(logging.DEBUG, event, text, event.duration, event.reason)


def _log(level: int, event: events.MemberEvent, text: str, *values: object) -> None:
    logger.log(level, "pool %r: member %d to %s %s", event.pool, event.member, event.endpoint, text % values)
