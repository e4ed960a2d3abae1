"""Servers that are replaced: asked to end, gracefully, and started again, one after the other, twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..report import Figure
from .contenders import CORE, CYCLE, FAILOVER, POOL, ROOMS
from .scenario import Run, Scenario, Stage
from .servers import Work

__all__ = ["RESTART", "RESTART_AIO"]

TIMES = 2
# From the end of one process to the start of the next, and from its start to the end of the next server.
AWAY = 0.3
PAUSE = 1.5


def _disturb(stage: Stage, seconds: float) -> None:
    for _ in range(TIMES):
        for index, backend in enumerate(stage.backends):
            stage.do("stop", index, backend.stop)
            stage.until(stage.now() + AWAY)
            stage.start(index)
            stage.until(stage.now() + PAUSE)


def _after_warm_up(stage: Stage, seconds: float) -> None:
    stage.until(0.0)
    _disturb(stage, seconds)


def _dropped(run: Run) -> int:
    """Return how many calls a server dropped that was being stopped.

    grpc's own words for calls that have arrived and that its application was not told of yet, or that arrive before the
    client has been told that the server is going.
    """
    return sum(sample.code == sample.details == "CANCELLED" for sample in run.failed)


def _judge(kind: str) -> Callable[[Mapping[tuple[str, str], Run]], list[Figure]]:
    def judge(runs: Mapping[tuple[str, str], Run]) -> list[Figure]:
        found = []
        for room in ROOMS:
            for name, said in ((POOL, "defaults"), (FAILOVER, "retry")):
                if (run := runs.get((room, name))) is not None:
                    others = [runs[room, other] for other in (CORE, CYCLE) if (room, other) in runs]
                    note = (
                        f"of {len(run.samples)}, {len(run.marked('stop'))} restarts; {_dropped(run)} dropped by servers"
                    )
                    note += "".join(f"; {other.contender} {len(other.failed)}" for other in others)
                    title = f"2, {room}: failed with {said}, {kind} servers"
                    found.append(Figure(title, len(run.failed), "calls", 0, note=note))
        return found

    return judge


def _columns(run: Run) -> dict[str, str]:
    return {"restarts": str(len(run.marked("stop"))), "dropped": str(_dropped(run))}


RESTART = Scenario(
    name="restart",
    title="all servers are restarted, one after the other, twice",
    disturb=_after_warm_up,
    judge=_judge("sync"),
    columns=_columns,
    seconds=13.0,
    shortest=13.0,
)
RESTART_AIO = Scenario(
    name="restart-aio",
    title="all servers are restarted, one after the other, twice; they are grpc.aio servers",
    disturb=_after_warm_up,
    judge=_judge("aio"),
    columns=_columns,
    contenders=(CORE, POOL),
    work=Work(kind="aio"),
    seconds=13.0,
    shortest=13.0,
)
