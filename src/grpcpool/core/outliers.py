"""What stands out among others: the success-rate algorithm of gRFC A50, without its timers; and simpler comparisons."""

from __future__ import annotations

import math
from collections.abc import Collection

__all__ = ["FEWEST_CALLS", "FEWEST_MEMBERS", "PERIOD", "floor", "is_chance", "is_usual"]

# The defaults of gRFC A50 (success_rate_ejection, and interval): among fewer members, and with fewer calls on each
# within that many seconds, a rate says too little.
FEWEST_MEMBERS = 5
FEWEST_CALLS = 100
PERIOD = 10.0
# So many standard deviations below the mean a rate is an outlier's (stdev_factor, there in thousandths).
FACTOR = 1.9
# What would come about by itself with less than one RPC in so many is no chance: at a thousand per second that is once
# in a quarter of an hour.
RARE = 1e-6


def floor(rates: Collection[float]) -> float | None:
    """Return the success rate below which a member is an outlier; None if there are too few to tell.

    Arguments:
        rates: of each member with enough calls, from 0 to 1.
    """
    if len(rates) < FEWEST_MEMBERS:
        return None
    mean = math.fsum(rates) / len(rates)
    variance = math.fsum((rate - mean) ** 2 for rate in rates) / len(rates)
    return mean - FACTOR * math.sqrt(variance)


def is_chance(row: int, share: float) -> bool:
    """Say whether so many RPCs in a row may have failed just because many do.

    Arguments:
        share: of the RPCs that fail elsewhere, from 0 to 1.
    """
    return share**row > RARE


def is_usual(failed: int, answered: int, share: float) -> bool:
    """Say whether about as much fails as elsewhere, or so little more that it may be chance.

    It is usual if it is less than twice the share that fails elsewhere, and leaves more than half of what succeeds
    there. It may be chance if Chernoff's bound says so: of n RPCs that fail with probability q, a share of f or more
    does with at most exp(-n D), where D = f ln(f / q) + (1 - f) ln((1 - f) / (1 - q)).

    Arguments:
        failed, answered: how many RPCs were; not both 0.
        share: of the RPCs that fail elsewhere, from 0 to 1.
    """
    failing = failed / (failed + answered)
    if failing < min(2 * share, (1 + share) / 2):
        return True
    if share in (0, 1):
        return share == 1
    divergence = sum(
        part * math.log(part / other) for part, other in ((failing, share), (1 - failing, 1 - share)) if part
    )
    return math.exp(-(failed + answered) * divergence) > RARE
