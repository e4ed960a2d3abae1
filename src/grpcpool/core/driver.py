"""Feeds the machine one message at a time, from whichever thread has one, without a lock that anyone waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .machine import Machine
from .messages import Effect, Input
from .turn import Turn

__all__ = ["Driver"]


class Driver:
    """An inbox, and whoever looks into it first does the work of all.

    `post` may be called from anywhere, a garbage collection included. `pump` hands the messages to the machine in the
    order of their arrival and carries out the effects, also in order. If another thread is doing that already (or this
    one is, further up its stack) it returns at once: whoever is at it will see the new message before leaving. So
    effects, listeners among them, never run concurrently, and yet nobody waits for them.

    Arguments:
        machine: decides.
        clock: the pool's clock.
        perform: carries out one effect; may `post`.
        on_error: told of an exception that `perform` or the machine raised; must not raise.
    """

    __slots__ = ("_clock", "_effects", "_inbox", "_on_error", "_perform", "_turn", "_unsettled", "machine")

    def __init__(
        self,
        machine: Machine,
        *,
        clock: Callable[[], float],
        perform: Callable[[Effect], object],
        on_error: Callable[[BaseException], object],
    ) -> None:
        self.machine = machine
        self._clock = clock
        self._perform = perform
        self._on_error = on_error
        self._inbox: deque[Input] = deque()
        # What is left to be done about messages that were handed over. Both outlive an interrupt.
        self._effects: deque[Effect] = deque()
        self._unsettled = False
        self._turn = Turn()

    def post(self, message: Input) -> None:
        """Leave a message for the next `pump`, of whichever thread."""
        self._inbox.append(message)

    def pump(self) -> None:
        """Work off the inbox, unless someone is at it already."""
        try:
            self._turn.work(self._pending, self._work)
        except BaseException:
            # Ctrl-C has struck in this thread, of all threads. What it has left over is not to wait for the next
            # message, which may be long in coming.
            self._turn.work(self._pending, self._work)
            raise

    def _pending(self) -> object:
        return self._inbox or self._effects or self._unsettled

    def hold(self, token: object) -> bool:
        """Take the turn, so that nothing is worked off until `release`; False if someone is at it. Never waits."""
        return self._turn.take(token)

    def release(self, token: object) -> None:
        """Give the turn back, if it was taken with this token; what has come in meanwhile waits for a `pump`."""
        self._turn.give_back(token)

    def discard(self) -> None:
        """Do nothing any more, not even what is under way further up the stack."""
        self._inbox.clear()
        self._effects.clear()
        self._unsettled = False
        self._on_error = _ignore

    def _work(self) -> None:
        """Hand over the messages there are, and carry out what comes of them together."""
        self._decide()
        interrupt: BaseException | None = None
        while self._effects:
            # One effect that fails must not take the others with it: a channel that cannot be closed is no reason not
            # to publish the next generation. The same goes for one that Ctrl-C strikes.
            try:
                self._perform(self._effects.popleft())
            except Exception as error:
                self._on_error(error)
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _decide(self) -> None:
        now = self._clock()
        self._unsettled = True
        for _ in range(len(self._inbox)):
            try:
                self.machine.take(self._inbox.popleft(), now)
            except Exception as error:
                self._on_error(error)
        try:
            self._effects.extend(self.machine.settle(now))
        except Exception as error:
            self._on_error(error)
        self._unsettled = False


def _ignore(_: object) -> None:
    pass
