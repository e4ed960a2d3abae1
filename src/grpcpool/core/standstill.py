"""A pool in which nothing begins for a moment."""

from __future__ import annotations

from collections.abc import Callable

from .engine import Engine, go_on
from .generation import Generation
from .lookout import Lookout
from .member import Member
from .messages import Republish

__all__ = ["Standstill"]


class Standstill:
    """Keeps a pool from picking, from deciding and from looking, from `begin` to `end`; a `pump` is due after that.

    Picks wait meanwhile, in the thread of whoever wants one, and then go on. What they read is replaced for that; so it
    costs nothing while there is no standstill.

    Arguments:
        wait: called where an RPC would begin; returns when it may.
    """

    def __init__(self, engine: Engine, lookout: Lookout, wait: Callable[[], object]) -> None:
        self._engine = engine
        self._lookout = lookout
        self._wait = wait
        self._before = self._instead = engine.generation

    def begin(self) -> None:
        """Let no RPC begin from now on, if there is anybody to pick."""
        before = self._engine.generation
        # Else the first one opens the pool, and that is something to be decided.
        if not before.eligible:
            return
        self._before = before
        self._instead = Generation(before.members, self._pick, self._pick_connected, before.eligible)
        self._engine.generation = self._instead
        self._engine.halt = self._wait

    def hold(self, *, decisions: bool = True) -> bool:
        """Take hold of those parts that nobody is at just now; False if one is missing. To be called until it is True.

        Arguments:
            decisions: False where this thread itself is in the middle of them.
        """
        looks = self._lookout.hold(self)
        if decisions and not self._engine.hold(self):
            return False
        if self._engine.generation is not self._instead:
            # Somebody who was at it has published.
            self.begin()
        return looks

    def end(self) -> None:
        """Let all go on."""
        self._engine.halt = go_on
        # Else somebody has published in spite of it.
        if self._engine.generation is self._instead:
            self._engine.generation = self._before
        if self._instead is not self._before:
            # What was published at the very moment in which `begin` read what there was before is found nowhere.
            self._engine.post(Republish())
        self._engine.release(self)
        self._lookout.release(self)

    def _pick(self) -> Member:
        return self._after().pick()

    def _pick_connected(self) -> Member:
        return self._after().pick_connected()

    def _after(self) -> Generation:
        self._wait()
        now = self._engine.generation
        return self._before if now is self._instead else now
