"""A server that fails everything at once: because it is broken, or because its callers are."""

from __future__ import annotations

from collections.abc import Mapping

from ..report import Figure
from .contenders import CORE, CYCLE, FAILOVER, POOL, ROOMS
from .load import OK
from .scenario import SPECIAL, Run, Scenario, Stage

__all__ = ["FAILING", "INVALID"]

NOTICE = 1.0
BAR_FAILED = 0.2
# Of a third, at the least, where nobody is ejected.
FAIR = 0.9


def _fail(code: str, stage: Stage) -> None:
    stage.until(0.0)
    stage.do("fail", SPECIAL, lambda: stage.backends[SPECIAL].ask(code))


def _unavailable(stage: Stage, seconds: float) -> None:
    _fail("UNAVAILABLE", stage)


def _invalid(stage: Stage, seconds: float) -> None:
    _fail("INVALID_ARGUMENT", stage)


def _failed(run: Run) -> float:
    calls = run.between(run.marked("fail")[0].done + NOTICE, float("inf"))
    return 100 * sum(s.code != OK for s in calls) / len(calls)


def _share(run: Run) -> float:
    return sum(sample.backend == SPECIAL for sample in run.samples) / len(run.samples)


def _failing_columns(run: Run) -> dict[str, str]:
    return {"failed after 1 s %": f"{_failed(run):.2f}", "ejections": str(run.stats.get("ejections", "-"))}


def _invalid_columns(run: Run) -> dict[str, str]:
    return {"its share %": f"{100 * _share(run):.1f}", "ejections": str(run.stats.get("ejections", "-"))}


def _judge_failing(runs: Mapping[tuple[str, str], Run]) -> list[Figure]:
    found = []
    for room in ROOMS:
        if (run := runs.get((room, POOL))) is not None:
            calls = run.between(run.marked("fail")[0].done + NOTICE, float("inf"))
            others = [runs[room, name] for name in (CORE, CYCLE, FAILOVER) if (room, name) in runs]
            note = "; ".join([f"of {len(calls)}", *(f"{other.contender} {_failed(other):.2f} %" for other in others)])
            found.append(
                Figure(f"4, {room}: failed from 1 s on, without retry", _failed(run), "%", BAR_FAILED, note=note)
            )
    return found


def _judge_invalid(runs: Mapping[tuple[str, str], Run]) -> list[Figure]:
    found = []
    for room in ROOMS:
        if (run := runs.get((room, POOL))) is not None:
            note = f"its share {100 * _share(run):.1f} %"
            found.append(Figure(f"4, {room}: ejections for INVALID_ARGUMENT", run.stats["ejections"], "", 0, note=note))
            missing = max(1 / 3 - _share(run), 0.0) * 300
            found.append(Figure(f"4, {room}: missing of its share", missing, "%", 100 * (1 - FAIR)))
    return found


FAILING = Scenario(
    name="failing",
    title="one of three servers answers UNAVAILABLE in 1 ms, to everything",
    disturb=_unavailable,
    judge=_judge_failing,
    columns=_failing_columns,
    seconds=8.0,
)
INVALID = Scenario(
    name="invalid",
    title="one of three servers answers INVALID_ARGUMENT, to everything",
    disturb=_invalid,
    judge=_judge_invalid,
    columns=_invalid_columns,
    contenders=(CORE, POOL),
    seconds=6.0,
)
