"""How a command that was told to end comes to an end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

__all__ = ["INTERRUPTED", "ending_in_order"]

# The exit code of what was interrupted, as shells say it: 128 and the number of SIGINT.
INTERRUPTED = 130

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Let a kill or a closed terminal end the block as Ctrl-C does, through every `finally`: nothing is left behind.

    What the caller has us ignore (nohup, a shell's background jobs) stays ignored. Only for the main thread.
    """
    handlers = {number: signal.getsignal(number) for number in _ENDINGS}
    # None is a handler that is not Python's, and that nobody could put back.
    before = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> NoReturn:
    # Once is enough: a second Ctrl-C would cut the cleaning up short.
    for ending in _ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    raise KeyboardInterrupt
