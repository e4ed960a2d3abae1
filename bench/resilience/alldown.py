"""All servers crash; ten seconds later the first is back, and then the others."""

from __future__ import annotations

from collections.abc import Mapping

from ..overload.load import percentile
from ..report import Figure
from .contenders import CORE, CYCLE, FAILOVER, POOL, ROOMS
from .load import OK, Sample
from .scenario import Run, Scenario, Stage

__all__ = ["ALL_DOWN"]

# From the start of one server to the start of the next.
APART = 1.5
# What remains after the first is back.
AFTER = 5.0
# From the crash until connections are known to be gone, before pool time and processor time are measured.
NEWS = 0.2
BAR_TIME = 5.0
BAR_CPU = 5.0
BAR_BACK = 1.0


def _disturb(stage: Stage, seconds: float) -> None:
    stage.until(0.0)
    for index, backend in enumerate(stage.backends):
        stage.do("kill", index, backend.kill)
    stage.until(NEWS)
    stage.do("down", 0, lambda: None)
    for index in range(len(stage.backends)):
        stage.until(seconds - AFTER + index * APART)
        # Two marks, for the start of a process takes processor time.
        stage.do("up soon", index, lambda: None)
        stage.start(index)


def _down(run: Run) -> list[Sample]:
    """Return the calls that were made and failed while nobody was there."""
    begin, end = run.marked("down")[0].done, run.marked("up soon")[0].begun
    return [s for s in run.between(begin, end) if not s.shot.patient and s.code != OK]


def _cpu(run: Run) -> float:
    begin, end = run.marked("down")[0], run.marked("up soon")[0]
    return 100 * (end.cpu - begin.cpu) / (end.begun - begin.begun)


def _back(run: Run) -> float:
    up = run.marked("start")[0]
    good = [s.ended for s in run.samples if s.code == OK and not s.shot.patient and s.ended > up.begun]
    return min(good, default=float("inf")) - up.done


def _times(run: Run) -> list[float]:
    return sorted(1e3 * sample.took for sample in _down(run))


def _patient(run: Run) -> list[Sample]:
    return [sample for sample in run.samples if sample.shot.patient]


def _columns(run: Run) -> dict[str, str]:
    times = _times(run)
    return {
        "failing call ms, p50/p99/worst": "/".join(f"{percentile(times, p) or 0:.1f}" for p in (50, 99, 100)),
        "CPU down %": f"{_cpu(run):.1f}",
        "back after s": f"{_back(run):.2f}",
        "patient ok": f"{sum(s.code == OK for s in _patient(run))}/{len(_patient(run))}",
    }


def _judge(runs: Mapping[tuple[str, str], Run]) -> list[Figure]:
    found = []
    for room in ROOMS:
        if (run := runs.get((room, POOL))) is None:
            continue
        others = [runs[room, name] for name in (CORE, CYCLE, FAILOVER) if (room, name) in runs]

        def beside(key: str, others: list[Run] = others) -> str:
            return "; ".join(f"{other.contender} {_columns(other)[key]}" for other in others)

        times = _times(run)
        note = f"{len(times)} calls, median {percentile(times, 50) or 0:.1f}, worst {times[-1] if times else 0:.1f} ms"
        note += f"; {beside('failing call ms, p50/p99/worst')}"
        found.append(
            Figure(f"5, {room}: failing call, p99", percentile(times, 99) or float("inf"), "ms", BAR_TIME, note=note)
        )
        found.append(Figure(f"5, {room}: CPU while all are down", _cpu(run), "%", BAR_CPU, note=beside("CPU down %")))
        found.append(
            Figure(
                f"5, {room}: first success after the first is up",
                _back(run),
                "s",
                BAR_BACK,
                note=beside("back after s"),
            )
        )
        patient = _patient(run)
        lost = [f"{s.code}: {s.details}" for s in patient if s.code != OK]
        note = "; ".join([f"of {len(patient)}", *lost])
        found.append(Figure(f"5, {room}: wait_for_ready calls that failed", len(lost), "calls", 0, note=note))
    return found


ALL_DOWN = Scenario(
    name="alldown",
    title="all servers are killed; the first is back after 10 s",
    disturb=_disturb,
    judge=_judge,
    columns=_columns,
    # What a process pays for calls that fail is to be told from what it pays for nothing.
    rate=50.0,
    seconds=15.0,
    shortest=AFTER + 4,
    patient=(1.0, 4.0, 6.0, 8.0),
)
