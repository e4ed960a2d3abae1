"""Every server fails every call, or is away: how many more calls do they get for it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..report import Figure
from .contenders import FAILOVER, POOL, ROOMS
from .scenario import Run, Scenario, Stage

__all__ = ["BUDGET", "BUDGET_AWAY"]

BAR = 1.25


def _fail(stage: Stage, seconds: float) -> None:
    # From the first call of the warm-up on: what reached the servers is counted from then.
    for index, backend in enumerate(stage.backends):
        stage.do("fail", index, lambda backend=backend: backend.ask("UNAVAILABLE"))  # type: ignore[misc]


def _kill(stage: Stage, seconds: float) -> None:
    for index, backend in enumerate(stage.backends):
        stage.do("kill", index, backend.kill)


def _attempts(run: Run) -> float:
    attempts = run.stats["calls"] if run.reached is None else run.reached
    return float(attempts) / run.sent


def _columns(run: Run) -> dict[str, str]:
    stats = run.stats
    return {"attempts/calls": f"{_attempts(run):.3f}", "not sent again": str(stats["retries_refused"])}


def _judge(how: str) -> Callable[[Mapping[tuple[str, str], Run]], list[Figure]]:
    def judge(runs: Mapping[tuple[str, str], Run]) -> list[Figure]:
        found = []
        for room in ROOMS:
            if (run := runs.get((room, FAILOVER))) is not None:
                rate = len(run.samples) / max(sample.ended for sample in run.samples)
                note = f"{run.sent} calls, {rate:.0f} a second; sent again {run.stats['retries']}"
                found.append(Figure(f"6, {room}: attempts / calls ({how})", _attempts(run), "×", BAR, note=note))
        return found

    return judge


BUDGET = Scenario(
    name="budget",
    title="all servers answer UNAVAILABLE, to everything",
    disturb=_fail,
    judge=_judge("all fail"),
    columns=_columns,
    contenders=(POOL, FAILOVER),
    seconds=6.5,
    counted=True,
)
BUDGET_AWAY = Scenario(
    name="budget-away",
    title="all servers are killed, and stay away",
    disturb=_kill,
    judge=_judge("all away"),
    columns=_columns,
    contenders=(FAILOVER,),
    seconds=6.5,
)
