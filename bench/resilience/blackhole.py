"""A server that is there and answers nothing, while its connections stay open; and then is back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..report import Figure
from .contenders import CORE, CYCLE, POOL, ROOMS
from .load import OK
from .scenario import SPECIAL, Run, Scenario, Stage

__all__ = ["BLACK_HOLE", "BLACK_HOLE_PROXY"]

# How much of the time it is away. What is left is to be more than the ten seconds within which it is to be back.
SECONDS = 20.0
BACK = 12.0
NOTICE = 2.0
BAR_SHARE = 0.1
BAR_BACK = 10.0
# It carries its share with so much of it, over a second.
SHARE = 0.9
WINDOW = 1.0
STEP = 0.1


def _freeze(stage: Stage, seconds: float) -> None:
    backend = stage.backends[SPECIAL]
    stage.until(0.0)
    stage.do("hang", SPECIAL, backend.freeze)
    stage.until(seconds - BACK)
    stage.do("back", SPECIAL, backend.thaw)


def _stall(stage: Stage, seconds: float) -> None:
    assert stage.proxy is not None
    stage.until(0.0)
    stage.do("hang", SPECIAL, stage.proxy.stall)
    stage.until(seconds - BACK)
    stage.do("back", SPECIAL, stage.proxy.resume)


def _share(run: Run, since: float, until: float) -> float:
    """Return the share of the calls that went there. Nobody else leaves calls without an answer."""
    calls = run.between(since, until)
    there = sum(s.backend == SPECIAL or (s.backend is None and s.code != OK) for s in calls)
    return there / len(calls) if calls else 0.0


def _lost(run: Run) -> float:
    return 100 * _share(run, run.marked("hang")[0].done + NOTICE, run.marked("back")[0].begun)


def _back(run: Run) -> float:
    """Return the seconds until it carried its share, and went on to."""
    back = run.marked("back")[0].done
    steps = int((BACK - WINDOW) / STEP)
    least = SHARE / 3
    for number in range(steps, -1, -1):
        begin = back + number * STEP
        if _share(run, begin, begin + WINDOW) < least:
            return number * STEP + WINDOW
    return 0.0


def _columns(run: Run) -> dict[str, str]:
    back = run.marked("back")[0].done
    return {
        "to it %": f"{_lost(run):.2f}",
        "its share after s": f"{_back(run):.1f}",
        "share 10 s on %": f"{100 * _share(run, back + 10, back + 12):.1f}",
    }


def _judge(how: str) -> Callable[[Mapping[tuple[str, str], Run]], list[Figure]]:
    def judge(runs: Mapping[tuple[str, str], Run]) -> list[Figure]:
        found = []
        for room in ROOMS:
            if (run := runs.get((room, POOL))) is not None:
                calls = len(run.between(run.marked("hang")[0].done + NOTICE, run.marked("back")[0].begun))
                others = [runs[room, name] for name in (CORE, CYCLE) if (room, name) in runs]
                note = "; ".join([f"of {calls}", *(f"{other.contender} {_lost(other):.1f} %" for other in others)])
                title = f"3, {room}: calls to it from 2 s on ({how})"
                found.append(Figure(title, _lost(run), "%", BAR_SHARE, note=note))
                note = f"share from the 10th second on {_columns(run)['share 10 s on %']} %"
                title = f"3, {room}: carries its share again ({how})"
                found.append(Figure(title, _back(run), "s", BAR_BACK, note=note))
        return found

    return judge


BLACK_HOLE = Scenario(
    name="blackhole",
    title="one of three servers is stopped (SIGSTOP) and later goes on; deadline 1 s",
    disturb=_freeze,
    judge=_judge("SIGSTOP"),
    columns=_columns,
    contenders=(CORE, CYCLE, POOL),
    seconds=SECONDS,
    shortest=BACK + 4,
    timeout=1.0,
    # A third of 300 calls a second that take a whole second are more than 64 threads can wait for.
    workers=160,
)
BLACK_HOLE_PROXY = Scenario(
    name="blackhole-proxy",
    title="the way to one of three servers passes nothing, and later does again; deadline 1 s",
    disturb=_stall,
    judge=_judge("proxy"),
    columns=_columns,
    contenders=(CORE, POOL),
    proxied=True,
    seconds=SECONDS,
    shortest=BACK + 4,
    timeout=1.0,
    workers=160,
)
