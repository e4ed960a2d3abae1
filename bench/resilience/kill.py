"""Servers that crash: one of three every two seconds, each started again after one."""

from __future__ import annotations

from collections.abc import Mapping

from ..report import Figure
from .contenders import CORE, CYCLE, FAILOVER, POOL, ROOMS
from .load import Sample
from .scenario import Run, Scenario, Stage

__all__ = ["KILL"]

EVERY = 2.0
AWAY = 1.0
# From the moment a process is gone to when its clients have been told, on a machine whose cores are all in use.
NEWS = 0.005
BAR_WORST = 0.25
# Nothing that was done to a server is felt so many seconds before or after it.
CALM = 0.3


def _disturb(stage: Stage, seconds: float) -> None:
    number = 0
    while number * EVERY + AWAY < seconds:
        index = number % len(stage.backends)
        stage.until(number * EVERY)
        stage.do("kill", index, stage.backends[index].kill)
        stage.until(number * EVERY + AWAY)
        stage.start(index)
        number += 1


def _avoidable(run: Run) -> list[Sample]:
    """Return the calls that failed and were not under way when a server was killed."""
    kills = [(mark.begun, mark.done + NEWS) for mark in run.marked("kill")]
    return [s for s in run.failed if not any(s.began <= done and begun <= s.ended for begun, done in kills)]


def _calm(run: Run) -> float:
    """Return the worst latency, in milliseconds, of the calls far from any kill or start: what the machine makes it."""
    far = [
        sample.latency
        for sample in run.samples
        if not any(mark.begun - CALM < sample.at < mark.done + CALM for mark in run.marks)
    ]
    return 1e3 * max(far, default=0.0)


def _columns(run: Run) -> dict[str, str]:
    return {
        "kills": str(len(run.marked("kill"))),
        "not in flight": str(len(_avoidable(run))),
        "calm ms": f"{_calm(run):.0f}",
    }


def _judge(runs: Mapping[tuple[str, str], Run]) -> list[Figure]:
    found = []
    for room in ROOMS:
        if (run := runs.get((room, FAILOVER))) is not None:
            note = f"of {len(run.samples)}, {len(run.marked('kill'))} kills"
            found.append(Figure(f"1, {room}: failed with retry", len(run.failed), "calls", 0, note=note))
            worst = max(run.samples, key=lambda sample: sample.latency)
            note = (
                f"made {1e3 * (worst.began - worst.at):.0f} ms late; worst when nobody was killed {_calm(run):.0f} ms"
            )
            found.append(
                Figure(f"1, {room}: worst call with retry", 1e3 * worst.latency, "ms", 1e3 * BAR_WORST, note=note)
            )
        if (run := runs.get((room, POOL))) is not None:
            late = _avoidable(run)
            note = f"of {len(run.failed)} that failed"
            found.append(Figure(f"1, {room}: failed, not in flight at a kill", len(late), "calls", 0, note=note))
            others = [runs[room, name] for name in (CORE, CYCLE) if (room, name) in runs]
            if others and others[0].contender == CORE:
                note = ", ".join(f"{other.contender} {len(other.failed)}" for other in others)
                bar = len(others[0].failed)
                found.append(Figure(f"1, {room}: failed without retry", len(run.failed), "calls", bar, note=note))
    return found


KILL = Scenario(
    name="kill",
    title="one of three servers is killed every 2 s, and started again after 1 s",
    disturb=_disturb,
    judge=_judge,
    columns=_columns,
    seconds=30.0,
)
