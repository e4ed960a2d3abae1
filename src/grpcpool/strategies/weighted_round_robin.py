"""Every endpoint in turn, the heavier ones more often."""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import random
from collections.abc import Sequence
from typing import TypeVar

from .base import Clock, Member, Picker

__all__ = ["WeightedRoundRobin"]

# The longest rotation. Weights that do not fit in are rounded to so many parts of the whole. Writing it down takes some
# milliseconds at this length, which is done once for the same weights.
SLOTS = 4096

T = TypeVar("T")


class WeightedRoundRobin:
    """Gives every endpoint its share of the RPCs, in turn: ``a a b a c`` for weights 3, 1 and 1.

    The share is the *endpoint's*: the traffic of the endpoints follows their weights however many members each has
    connected at the moment, and the members of one endpoint share its traffic equally. An endpoint without a connected
    member gets nothing; the others then share everything, in proportion to their weights.

    The rotation is written down when members change, as short as the weights allow: 0.5 and 1.5 make four slots; 30, 50
    and 20 make ten. After any number of slots, counted from the first, every endpoint has had its exact share to within
    one RPC, so there are no bursts. Weights whose rotation would be longer than 4,096 slots are rounded to that many: a
    share is then off by less than one in 4,096 of the traffic; an endpoint that is due less than one slot gets one, and
    the rotation becomes longer by so many.
    """

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> Picker:
        """Return the rotation, from a random slot on.

        So a change of members does not send the next RPCs to the same few, and clients that start together do not move
        in step. Each slot is one step of an endpoint's own rotation over its members. Both rotations are C code that
        holds the interpreter from start to end: no two threads get the same step, and none is lost.
        """
        endpoints: dict[str, list[Member]] = {}
        for member in members:
            endpoints.setdefault(member.endpoint, []).append(member)
        turns = [_cycle(each, rng) for each in endpoints.values()]
        slots = _interleave(_slots([each[0].weight for each in endpoints.values()]))
        return map(next, _cycle([turns[index] for index in slots], rng)).__next__


def _cycle(items: Sequence[T], rng: random.Random) -> itertools.cycle[T]:
    start = rng.randrange(len(items))
    return itertools.cycle((*items[start:], *items[:start]))


def _slots(weights: Sequence[float]) -> tuple[int, ...]:
    """Return how many slots of the rotation are each endpoint's: in proportion to the weights, and as few as can be."""
    # Imported when it is needed, as it takes half as long as the rest of this package.
    from fractions import Fraction

    # As somebody wrote it: 0.1 is one tenth, and not the binary fraction next to it.
    exact = {weight: Fraction(str(weight)) for weight in set(weights)}
    # The greatest number of which all weights are multiples.
    unit = Fraction(
        math.gcd(*(weight.numerator for weight in exact.values())),
        math.lcm(*(weight.denominator for weight in exact.values())),
    )
    multiples = {weight: int(exact[weight] / unit) for weight in exact}
    counts = [multiples[weight] for weight in weights]
    total = sum(counts)
    if total <= SLOTS:
        return tuple(counts)
    # By largest remainder. Integers throughout, for weights may be further apart than floating point can tell.
    slots = [max(1, count * SLOTS // total) for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda index: counts[index] * SLOTS % total, reverse=True)
    for index in by_remainder[: max(0, SLOTS - sum(slots))]:
        slots[index] += 1
    return tuple(slots)


@functools.lru_cache(maxsize=16)
def _interleave(slots: tuple[int, ...]) -> tuple[int, ...]:
    """Return the rotation in which index ``i`` occurs ``slots[i]`` times, evenly spread.

    With ``total`` slots, the ``k``-th RPC of ``i``, counted from 0, is given a slot from ``k * total // slots[i]`` on
    and before ``(k + 1) * total / slots[i]``, rounded up; of all that may have a slot it goes to the one with the
    earliest end. There is always one, and no end is ever missed (S. Baruah et al., "Proportionate Progress: A Notion of
    Fairness in Resource Allocation", 1996): which is to say that nobody is ever one RPC or more from its share.
    """
    total = sum(slots)
    coming = [(0, index, 0) for index in range(len(slots))]
    waiting: list[tuple[int, int, int]] = []
    rotation = []
    for slot in range(total):
        while coming and coming[0][0] <= slot:
            _, index, nth = heapq.heappop(coming)
            heapq.heappush(waiting, (-(-(nth + 1) * total // slots[index]), index, nth))
        _, index, nth = heapq.heappop(waiting)
        rotation.append(index)
        # The last one of each comes after the end of the rotation, where the next begins.
        heapq.heappush(coming, ((nth + 1) * total // slots[index], index, nth + 1))
    return tuple(rotation)
