"""Ten members, and now and then a call that takes a hundred times as long."""

from __future__ import annotations

from collections.abc import Mapping

from ..report import Figure
from .contenders import HEDGED, HEDGED_P95, POOL, ROOMS
from .scenario import Run, Scenario, Stage
from .servers import Work

__all__ = ["HEDGE"]

BAR_TAIL = 0.1
BAR_EXTRA = 5.0


def _disturb(stage: Stage, seconds: float) -> None:
    """Do nothing: servers are slow by themselves."""


def _extra(run: Run) -> float:
    assert run.reached is not None
    return 100 * (run.reached / run.sent - 1)


def _columns(run: Run) -> dict[str, str]:
    return {"hedges": str(run.stats["hedges"]), "extra %": f"{_extra(run):.2f}"}


def _judge(runs: Mapping[tuple[str, str], Run]) -> list[Figure]:
    found = []
    for room in ROOMS:
        for name in (HEDGED, HEDGED_P95):
            run, without = runs.get((room, name)), runs.get((room, POOL))
            if run is None:
                continue
            if without is not None:
                tails = run.latency(99.9), without.latency(99.9)
                note = f"{1e3 * tails[0]:.0f} / {1e3 * tails[1]:.0f} ms; late p99 {1e3 * run.late:.0f} ms"
                found.append(
                    Figure(f"7, {room}: p99.9, {name} / {POOL}", tails[0] / tails[1], "×", BAR_TAIL, note=note)
                )
            note = f"{run.stats['hedges']} of {run.sent}, not sent {run.stats['retries_refused']}"
            found.append(Figure(f"7, {room}: extra calls, {name}", _extra(run), "%", BAR_EXTRA, note=note))
    return found


HEDGE = Scenario(
    name="hedge",
    title="ten members; 1 % of the calls take 1 s instead of 10 ms, at random",
    disturb=_disturb,
    judge=_judge,
    columns=_columns,
    contenders=(POOL, HEDGED, HEDGED_P95),
    work=Work(slow_share=0.01),
    ports=(4, 3, 3),
    seconds=20.0,
    counted=True,
)
