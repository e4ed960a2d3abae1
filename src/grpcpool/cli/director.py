"""What happens to the servers and to the pool while the load runs: a plan, and who carries it out."""

from __future__ import annotations

import enum
import threading
from dataclasses import dataclass

import grpc

from ..errors import PoolError
from ..sync import ChannelPool
from .notes import Notes
from .stage import Stage

__all__ = ["KILLED", "Act", "Director", "Step", "plan"]

# Which server is killed: the first. A plain channel with grpc's default policy runs on that one alone, so it meets the
# kill as well; with another server it would not notice.
KILLED = 0


class Act(enum.Enum):
    """Something that is done on the way."""

    KILL = "kill"
    RESTART = "restart"
    GROW = "grow"
    SHRINK = "shrink"


@dataclass(frozen=True, slots=True)
class Step:
    """Do `act`, `at` seconds after the load began."""

    at: float
    act: Act


# When, as a share of the whole. The restarted server has a third of the time to be found again (grpc waits about a
# second between attempts, which decides the demo's default length); the pool grows when all three are there again.
_PLAN = ((0.25, Act.KILL), (0.40, Act.RESTART), (0.75, Act.GROW), (0.90, Act.SHRINK))


def plan(seconds: float, *, resizable: bool) -> tuple[Step, ...]:
    """Return what to do during a load of `seconds`. The kill is the same for all; only a pool can be resized."""
    return tuple(Step(share * seconds, act) for share, act in _PLAN if resizable or act not in (Act.GROW, Act.SHRINK))


class Director:
    """Carries a plan out, one step after the other: a step that comes late pushes the next ones back.

    Arguments:
        stage: where.
        channel: what is resized if it is a pool.
        notes: where it writes what it did.
        growth: by how many members the pool grows, and shrinks again.

    Attributes:
        before: the connections to each server before anything was done to them; None until they are counted.
        grown: the connections after the pool had grown; None if it has not.
        killed_at, back_at: when the server was killed, and when it accepted connections again; None if not yet.
    """

    def __init__(self, stage: Stage, channel: grpc.Channel, notes: Notes, growth: int) -> None:
        self._stage = stage
        self._channel = channel
        self._notes = notes
        self._growth = growth
        self._stop = threading.Event()
        self.before: dict[str, int] | None = None
        self.grown: dict[str, int] | None = None
        self.killed_at: float | None = None
        self.back_at: float | None = None

    def run(self, steps: tuple[Step, ...], began: float) -> None:
        """Carry out the steps; `began` is when the load did, on the clock of the notes. Blocks until done or stopped.

        Raises:
            StageError: the server did not come back.
        """
        for step in steps:
            if self._stop.wait(max(0.0, began + step.at - self._notes.now())):
                return
            self._perform(step.act)

    def stop(self) -> None:
        """Begin no further step. A server that is being restarted still comes up."""
        self._stop.set()

    def _perform(self, act: Act) -> None:
        name = self._stage.servers[KILLED].name
        match act:
            case Act.KILL:
                self.before = self._stage.connections()
                self.killed_at = self._notes.add(f"kill server {name}")
                self._stage.kill(KILLED)
            case Act.RESTART:
                self._stage.restart(KILLED)
                self.back_at = self._notes.add(f"server {name} is back")
            case Act.GROW:
                if self._resize(self._growth):
                    self.grown = self._stage.connections()
                    self._notes.add(f"{sum(self.grown.values())} connections after growing")
            case Act.SHRINK:
                # Only what was added; a pool that could not grow is left alone.
                if self.grown is not None:
                    self._resize(-self._growth)

    def _resize(self, change: int) -> bool:
        if not isinstance(self._channel, ChannelPool):
            return False
        size = self._channel.stats().size + change
        self._notes.add(f"resize the pool to {size}")
        try:
            self._channel.resize(size)
        except PoolError as error:
            self._notes.add(f"the resize failed: {error}")
            return False
        return True
