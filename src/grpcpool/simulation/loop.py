"""The simulation: calls arrive, are picked a backend, and end."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from ..core.lease import Lease
from ..keys import affinity
from ..strategies.base import Strategy
from .client import Client
from .figures import Figures, latency_of, peak_share
from .membership import changes
from .scenario import Scenario
from .server import Server

__all__ = ["DEADLINE_EXCEEDED", "UNAVAILABLE", "run"]

DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
UNAVAILABLE = "UNAVAILABLE"

# Seconds from which on a call counts as slow.
SLOW = 1.0

# Below every chance that a float can tell from 0.
_LEAST = 2.0**-54


class _Clock:
    """The time, for strategies."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(scenario: Scenario, make: Callable[[], Strategy], seed: int) -> Figures:
    """Simulate a scenario with one strategy, and return what was seen.

    Everything that is left to chance comes from `seed`, and what does not depend on a strategy's choices is the same
    for all strategies: when calls arrive, from which client, how much work each is, and what befalls the backends.

    Arguments:
        scenario: what is simulated.
        make: returns a new strategy; called once for each client.
        seed: the same seed gives the same figures.
    """
    groups = [group for group in scenario.backends for _ in range(group.count)]
    servers = [Server(group, random.Random(f"{seed}/backend/{number}")) for number, group in enumerate(groups)]
    clock = _Clock()
    problems: dict[str, None] = {}
    clients = [
        Client(make(), groups, rng=random.Random(f"{seed}/client/{number}"), clock=clock, on_error=problems.setdefault)
        for number in range(scenario.clients)
    ]
    membership = changes(scenario)
    # What is to happen: a time; a number that settles which of two at the same time comes first; and either a lease
    # and whether its call succeeds, or members and None.
    agenda: list[tuple[float, int, Any, bool | None]] = [
        (time, index - len(membership), members, None) for index, (time, members) in enumerate(membership)
    ]

    def settle(until: float) -> None:
        while agenda and agenda[0][0] <= until:
            now, _, what, succeeds = heappop(agenda)
            clock.now = now
            if succeeds:
                what.succeed(now)
            elif succeeds is None:
                for client in clients:
                    client.connect(what)
            else:
                what.fail(now)

    chance = random.Random(f"{seed}/calls").random
    keys = random.Random(f"{seed}/keys").randrange
    log = math.log
    rate, count, round_trip = scenario.rate, scenario.clients, scenario.round_trip
    duration, warm_up, timeout = scenario.duration, scenario.warm_up, scenario.timeout
    keyed = clients[0].keyed
    picks = [[0] * len(groups) for _ in range(math.ceil(duration))]
    latencies: list[float] = []
    errors: dict[str, float] = {}
    calls = number = 0
    now = 0.0
    while True:
        now -= log(1.0 - chance()) / rate
        if now >= duration:
            break
        settle(now)
        clock.now = now
        number += 1
        client = clients[int(chance() * count)]
        work = chance() or _LEAST
        if keyed:
            with affinity(str(keys(scenario.keys))):
                member = client.pick()
        else:
            member = client.pick()
        lease = Lease.on(member, now)
        backend = member.channel
        server = servers[backend]
        picks[int(now)][backend] += 1
        # The whole round trip lies behind the service. With half of it before, all servers would live half a round
        # trip later, and clients would see the same.
        if server.refuses(now):
            taken = round_trip
            kind = UNAVAILABLE
        else:
            taken = server.serve(now, work) + round_trip - now
            kind = ""
            if taken > timeout:
                taken = timeout
                kind = DEADLINE_EXCEEDED
        heappush(agenda, (now + taken, number, lease, not kind))
        if now >= warm_up:
            calls += 1
            if kind:
                errors[kind] = errors.get(kind, 0) + 1
            if kind != UNAVAILABLE:
                latencies.append(taken)
    settle(math.inf)
    return Figures(
        calls=calls,
        errors=errors,
        latency=latency_of(latencies),
        over_1s=sum(taken > SLOW for taken in latencies) / calls if calls else 0.0,
        peak_share=peak_share(picks, membership, [group.weight for group in groups], since=warm_up, duration=duration),
        traffic=tuple(tuple(each / (sum(second) or 1) for each in second) for second in picks),
        strategy_errors=tuple(problems),
    )
