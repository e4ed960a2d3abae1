"""Closing channels where nobody waits for themselves."""

from __future__ import annotations

import atexit
import functools
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from ..core.turn import Turn

__all__ = ["Closer"]

# At the exit of the interpreter: closing takes far less than this, but a user's callback may be stuck in it.
EXIT_TIMEOUT = 0.5


class Closer:
    """Closes a pool's channels, one after the other, in a thread that is there for as long as there are any.

    grpc's `close` waits until everybody has been told how the channel's RPCs ended. They are told in a thread of the
    channel's own, which may be the very one that carries out here what comes of such an end. Or, in a callback of the
    user's, it may be waiting for something that the pool's own thread is to do. So neither of these may wait for it.

    Arguments:
        on_error: told of what `close` raises.
        name: of the thread.
    """

    def __init__(self, on_error: Callable[[BaseException], object], name: str) -> None:
        self._on_error = on_error
        self._name = name
        self._waiting: deque[Any] = deque()
        self._turn = Turn()
        # Held while a channel is being closed.
        self._lock = threading.Lock()
        self._held = False
        # Threads that have not ended yet, or begun.
        self._running = 0
        self._changed = threading.Condition()

    def close(self, channel: Any) -> None:
        """Have a channel closed. Does not block."""
        self._waiting.append(channel)
        with self._changed:
            self._running += 1
        try:
            threading.Thread(target=self._run, name=f"grpcpool-{self._name}-closing", daemon=True).start()
        except RuntimeError:
            # The interpreter ends, or there are too many threads.
            self._run()

    def _run(self) -> None:
        # A daemon that is within grpc when the interpreter is taken down can take it down the hard way.
        wait = functools.partial(self.join, EXIT_TIMEOUT)
        atexit.register(wait)
        try:
            self._turn.work(self._waiting.__len__, self._close_one)
        finally:
            atexit.unregister(wait)
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _close_one(self) -> None:
        with self._lock:
            try:
                self._waiting.popleft().close()
            except Exception as error:
                self._on_error(error)

    def join(self, timeout: float) -> None:
        """Wait until all channels are closed, but not longer than so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, timeout)

    # --- around a fork

    def hold(self, deadline: float) -> None:
        """Let no channel be closed from now on; wait for one that is being, but not longer than until `deadline`."""
        self._held = self._lock.acquire(timeout=max(deadline - monotonic(), 0))

    def release(self) -> None:
        """Let channels be closed again."""
        if self._held:
            self._held = False
            self._lock.release()

    def left(self) -> list[Any]:
        """Return the channels that wait to be closed."""
        return list(self._waiting)
