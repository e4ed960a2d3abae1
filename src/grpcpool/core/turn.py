"""The right to do some work, which threads take from each other without ever waiting for it."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Turn"]


class Turn:
    """Whoever takes it first does the work of all.

    Taking it is one step for the interpreter, and never waited for: not by threads, and not by a garbage collection
    that strikes in the middle of the work and finds more of it. Whoever does not get it leaves what is to be done where
    the one who has it will find it.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[str, object] = {}

    def take(self, token: object) -> bool:
        """Try to take the turn. To be called within a ``try`` whose ``finally`` gives it back: Ctrl-C may strike."""
        return self._held.setdefault("", token) is token

    def give_back(self, token: object) -> None:
        """Give the turn back; harmless if it was not taken with this token."""
        if self._held.get("") is token:
            del self._held[""]

    def work(self, pending: Callable[[], object], step: Callable[[], object]) -> None:
        """Do `step` for as long as anything is `pending`, unless someone is at it already."""
        # The outer loop closes the gap between "nothing is pending" and "the turn is given back": what came in between
        # was left by someone who found the turn taken, and so relies on us.
        while pending():
            token = object()
            try:
                if not self.take(token):
                    return
                while pending():
                    step()
            finally:
                # Twice, for Ctrl-C may strike on the way into the first; and a turn that is kept is kept for good.
                try:
                    self.give_back(token)
                finally:
                    self.give_back(token)
