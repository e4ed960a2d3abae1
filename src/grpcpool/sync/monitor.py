"""The one thread of a sync pool: looks at connections, keeps appointments."""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

from ..core.pace import Pace

__all__ = ["SLOW", "Monitor"]

# Between two looks when nothing happens, in seconds: a lost connection is seen within a tenth of a second.
SLOW = 0.1
# The same for a large pool: as often as `subscribe` would look.
SLOWEST = 0.2
# And for a large pool in which no RPC is in flight: nobody is waiting to hear of it.
UNUSED = 0.25
# At the exit of the interpreter: a look takes far less than this, but a listener may be stuck in one.
EXIT_TIMEOUT = 0.5


class Monitor:
    """Calls `look` of an object at a varying pace, for as long as the object lives.

    Arguments:
        owner: held weakly, so that a pool that nobody closes can be collected.
        look: called with the owner; returns whether there was news, and the seconds to the next appointment or None.
        on_error: called with the owner and what `look` raised.
        name: of the thread.
    """

    def __init__(
        self,
        owner: object,
        look: Callable[[Any], tuple[bool, float | None]],
        on_error: Callable[[Any, BaseException], object],
        name: str,
    ) -> None:
        self._owner = weakref.ref(owner)
        self._look = look
        self._on_error = on_error
        self._name = name
        # The one queue that may be put into from a garbage collection, whatever that interrupts. False: stop.
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pace = Pace(SLOW)

    def watch_over(self, members: int, in_use: bool) -> None:
        """Suit the pace to the number of members, and to whether anybody needs them."""
        self._pace.suit(members, least=SLOW, most=SLOWEST if in_use else UNUSED)

    def start(self) -> None:
        """Start the thread. It is a daemon: nobody has to close a pool to let the interpreter exit."""
        thread = threading.Thread(target=self._run, name=f"grpcpool-{self._name}", daemon=True)
        thread.start()
        self._thread = thread
        # Rung when the owner is collected, which may be in the middle of anything: so nobody waits for it then.
        weakref.finalize(self._owner(), self._bell.put, False).atexit = False
        atexit.register(self._end)

    def _end(self) -> None:
        # A daemon that is within grpc when the interpreter is taken down can take it down the hard way.
        self.stop()
        self.join(EXIT_TIMEOUT)

    def ring(self) -> None:
        """Have a look now, and look often for a while. Safe from anywhere, a garbage collection included."""
        self._bell.put(True)

    def stop(self) -> None:
        """Let the thread end."""
        self._bell.put(False)

    def abandon(self) -> None:
        """Let go of a thread that a fork has not brought along; if it is the one that forked, let it end."""
        atexit.unregister(self._end)
        self.stop()

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended, up to `timeout` seconds, unless it is the one that asks."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        try:
            self._watch()
        finally:
            atexit.unregister(self._end)

    def _watch(self) -> None:
        pace = self._pace
        pause = pace.next(True, None)
        while True:
            try:
                if not self._bell.get(timeout=pause):
                    return
                pace.quicken()
                # One look answers everybody who has rung by now.
                while True:
                    if not self._bell.get_nowait():
                        return
            except queue.Empty:
                pass
            owner = self._owner()
            if owner is None:
                return
            news, appointment = False, None
            try:
                news, appointment = self._look(owner)
            except BaseException as error:
                # Even SystemExit, which a user's callback may raise: it would end this thread without a word, and all
                # upkeep with it.
                self._on_error(owner, error)
            # Not to be kept alive while this thread sleeps.
            del owner
            pause = pace.next(news, appointment)
