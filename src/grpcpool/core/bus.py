"""Delivers events to listeners, whatever the listeners do."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable

from ..events import Event, Listener, Picked
from .counters import Tally
from .member import Member

__all__ = ["Bus"]


class Bus:
    """The listeners of one pool.

    Arguments:
        name: the pool's name.
        listeners: told every event, in this order.
        log: told every event but `Picked` as well, before the listeners: the pool's own log.
        on_error: told which listener raised what, for the first time that it does.
    """

    __slots__ = ("_count", "_errors", "_listeners", "_log", "_name", "_on_error", "_reported")

    def __init__(
        self,
        name: str,
        listeners: Iterable[Listener],
        *,
        log: Callable[[Event], object],
        on_error: Callable[[Listener, BaseException], object],
    ) -> None:
        self._name = name
        # A list, changed in place by single steps of the interpreter, so that no change is lost to another; and copied
        # to be gone through.
        self._listeners = list(listeners)
        self._log = log
        self._on_error = on_error
        self._errors = Tally()
        self._reported: tuple[Listener, ...] = ()
        self._count = itertools.count(1).__next__

    @property
    def errors(self) -> int:
        """Exceptions that listeners raised so far."""
        return self._errors.value()

    def add(self, listener: Listener) -> None:
        """Tell `listener` every event from now on."""
        self._listeners.append(listener)

    def remove(self, listener: Listener) -> None:
        """Tell `listener` no more; harmless if it was not told."""
        # By equality, not identity: a bound method is a new object each time that it is looked up.
        with contextlib.suppress(ValueError):
            self._listeners.remove(listener)

    def emit(self, event: Event) -> None:
        """Log the event and tell the listeners."""
        try:
            self._log(event)
        except Exception:
            # A filter or handler of somebody's. The log is a listener like any other.
            self._errors.add()
        self._tell(event)

    def sampled(self, pick: Callable[[], Member], rate: int) -> Callable[[], Member]:
        """Return `pick`, or, if anybody listens, a pick that also emits `Picked` for one in `rate` (0: never).

        Decided when picks are published, not when they are made: without a listener a pick costs nothing extra.
        """
        if not rate or not self._listeners:
            return pick
        # One count for all generations, or members that come and go would keep it from ever getting to `rate`.
        count = self._count

        def pick_and_tell() -> Member:
            member = pick()
            if count() % rate == 0:
                self._tell(Picked(pool=self._name, member=member.id, endpoint=member.endpoint))
            return member

        return pick_and_tell

    def _tell(self, event: Event) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except KeyboardInterrupt:
                # Not the listener's doing.
                raise
            except BaseException as error:
                # Even SystemExit: it would end whichever thread or loop this happens to run in, and nothing else.
                self._errors.add()
                if listener not in self._reported:
                    self._reported = (*self._reported, listener)
                    self._on_error(listener, error)
