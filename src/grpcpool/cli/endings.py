"""How a command that was told to end comes to an end."""

from __future__ import annotations

import signal
from typing import NoReturn

__all__ = ["INTERRUPTED", "end_in_order"]

# The exit code of what was interrupted, as shells say it: 128 and the number of SIGINT.
INTERRUPTED = 130

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_in_order() -> None:
    """Let a kill or a closed terminal end the command as Ctrl-C does, through every `finally`: nothing is left behind.

    What the caller has us ignore (nohup, a shell's background jobs) stays ignored. Only for the main thread.
    """
    for number in _ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> NoReturn:
    # Once is enough: a second Ctrl-C would cut the cleaning up short.
    for ending in _ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    raise KeyboardInterrupt
