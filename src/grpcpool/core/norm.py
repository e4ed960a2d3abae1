"""Makes the latencies of different methods comparable."""

from __future__ import annotations

from contextlib import suppress

__all__ = ["Norm", "Norms"]

# Weight of a new sample in a method's average: slow enough that one slow member among many does not pass for a slow
# method, quick enough that an average means something after some dozens of calls.
SMOOTHING = 1 / 64
# Methods to be remembered. A service has some dozens; but a proxy may be asked for anything, and names that somebody
# makes up must not pile up.
REMEMBERED = 1024


class Norms:
    """The norms of all methods of one pool, and the average over all of them."""

    __slots__ = ("_by_method", "typical")

    def __init__(self) -> None:
        self._by_method: dict[str, Norm] = {}
        self.typical: float | None = None

    def of(self, method: str) -> Norm:
        """Return the norm of a method. Safe from any thread.

        A norm that is forgotten, because so many methods came after it, goes on serving whoever has it.
        """
        norms = self._by_method
        norm = norms.setdefault(method, Norm(self))
        if norm.alone and len(norms) > 1:
            for each in tuple(norms.values()):
                each.alone = False
        if len(norms) > REMEMBERED:
            # Another thread may do the same at this moment; then the next one makes up for it.
            with suppress(KeyError, RuntimeError):
                del norms[next(iter(norms))]
        return norm


class Norm:
    """What one method usually takes.

    A member that happens to be given the slow methods is not a slow member. So what a strategy is told is how long an
    RPC took in terms of its own method, times what a call of this pool usually takes: seconds again, and just the
    latency where all calls are of one method.

    Safe from any thread, without a lock: two at once may lose a sample.

    Attributes:
        usual: what a call of the method takes, in seconds; None before the first.
        alone: there is no other method, so that latencies are comparable as they are and nothing need be learnt.
    """

    __slots__ = ("_all", "alone", "usual")

    def __init__(self, norms: Norms) -> None:
        self._all = norms
        self.usual: float | None = None
        self.alone = True

    def learn(self, latency: float) -> float:
        """Take in that a call took `latency` seconds, and return what it would have taken if it were a usual one."""
        everything = self._all
        typical, usual = everything.typical, self.usual
        everything.typical = typical = latency if typical is None else typical + (latency - typical) * SMOOTHING
        self.usual = usual = latency if usual is None else usual + (latency - usual) * SMOOTHING
        return latency * typical / usual if usual else latency

    def apply(self, latency: float) -> float:
        """Return what `learn` does, and learn nothing: the call did not come to its end by itself."""
        typical, usual = self._all.typical, self.usual
        return latency * typical / usual if usual and typical else latency
