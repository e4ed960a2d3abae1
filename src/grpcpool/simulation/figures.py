"""What a run shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from .membership import Change

__all__ = ["CURVE", "Figures", "Latency", "joined", "latency_of", "peak_share", "percentile"]

# Percentiles at which the whole distribution is drawn: finer where it matters.
CURVE: tuple[float, ...] = (
    *range(100),
    *(99 + step / 10 for step in range(1, 10)),
    *(99.9 + step / 100 for step in range(1, 10)),
    100,
)


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from a call's arrival to its end, over all calls that were not refused at once.

    Attributes:
        mean, p50, p90, p99, p999, maximum: as their names say; p999 is the 99.9th percentile.
        curve: the percentiles `CURVE`.
    """

    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    maximum: float
    curve: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run shows, or the median of several runs. Over the calls that arrived after the warm-up, unless said.

    Attributes:
        calls: how many.
        errors: how many of them failed, by status code.
        latency: None if every single call was refused.
        over_1s: share of the calls that took more than a second.
        peak_share: the most that a backend got of its fair share in any second after the warm-up. Its fair share is
            what its weight and the time for which it was a member in that second entitle it to.
        traffic: share of the calls in each second, from the very start, that each backend got.
        strategy_errors: what the pool had to say of the strategy.
    """

    calls: float
    errors: dict[str, float]
    latency: Latency | None
    over_1s: float
    peak_share: float
    traffic: tuple[tuple[float, ...], ...]
    strategy_errors: tuple[str, ...]

    @property
    def error_share(self) -> float:
        """Share of the calls that failed."""
        return sum(self.errors.values()) / self.calls if self.calls else 0.0


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` % of the ordered values do not exceed."""
    # Rounded first: 99.9 % of 1,000 is 999, and not the 999.0000000000001 of floating point.
    return ordered[max(0, math.ceil(round(len(ordered) * percent / 100, 6)) - 1)]


def latency_of(latencies: list[float]) -> Latency | None:
    """Return the figures of these latencies, which are sorted on the way; None if there are none."""
    if not latencies:
        return None
    latencies.sort()
    p50, p90, p99, p999 = (percentile(latencies, percent) for percent in (50, 90, 99, 99.9))
    curve = tuple(percentile(latencies, percent) for percent in CURVE)
    return Latency(fmean(latencies), p50, p90, p99, p999, latencies[-1], curve)


# Of a second, the least part for which somebody must have been a member for it to be looked at: the fair share of a
# moment is a call or two, and ten times as many are no flood.
SHORTEST = 0.1


def peak_share(
    picks: Sequence[Sequence[int]],
    changes: Sequence[Change],
    weights: Sequence[float],
    *,
    since: float,
    duration: float,
) -> float:
    """Return the highest ratio of a backend's calls in a second to its fair share of them; see `Figures`.

    Arguments:
        picks: calls in each second, by backend.
        changes: who was a member.
        weights: by backend.
        since: seconds that begin before are left out.
        duration: of the run.
    """
    highest = 0.0
    ends = [time for time, _ in changes[1:]] + [duration]
    epochs = [
        (begin, end, members, sum(weights[number] for number in members))
        for (begin, members), end in zip(changes, ends, strict=True)
    ]
    for second in range(math.ceil(since), len(picks)):
        length = min(second + 1, duration) - second
        total = sum(picks[second])
        fair = [0.0] * len(weights)
        there = [0.0] * len(weights)
        for begin, end, members, weight in epochs:
            overlap = min(end, second + length) - max(begin, second)
            if overlap > 0:
                for number in members:
                    fair[number] += total * overlap / length * weights[number] / weight
                    there[number] += overlap
        for number, expected in enumerate(fair):
            if expected and there[number] >= SHORTEST:
                highest = max(highest, picks[second][number] / expected)
    return highest


def joined(runs: Sequence[Figures]) -> Figures:
    """Return the median of several runs of the same scenario, figure by figure."""
    kinds = sorted({kind for run in runs for kind in run.errors})
    latencies = [run.latency for run in runs if run.latency is not None]
    return Figures(
        calls=median(run.calls for run in runs),
        errors={kind: median(run.errors.get(kind, 0) for run in runs) for kind in kinds},
        latency=_median_latency(latencies) if latencies else None,
        over_1s=median(run.over_1s for run in runs),
        peak_share=median(run.peak_share for run in runs),
        traffic=tuple(
            tuple(median(shares) for shares in zip(*second, strict=True))
            for second in zip(*(run.traffic for run in runs), strict=True)
        ),
        strategy_errors=tuple(dict.fromkeys(problem for run in runs for problem in run.strategy_errors)),
    )


def _median_latency(runs: Sequence[Latency]) -> Latency:
    return Latency(
        mean=median(run.mean for run in runs),
        p50=median(run.p50 for run in runs),
        p90=median(run.p90 for run in runs),
        p99=median(run.p99 for run in runs),
        p999=median(run.p999 for run in runs),
        maximum=median(run.maximum for run in runs),
        curve=tuple(median(values) for values in zip(*(run.curve for run in runs), strict=True)),
    )
