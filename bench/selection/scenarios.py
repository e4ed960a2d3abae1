"""What happens to the backends while they are called."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["BACKENDS", "SCENARIOS", "SERVICE", "SPECIAL", "WORKERS", "Disturbance", "Scenario"]

BACKENDS = 10
# The one that misbehaves: neither the first nor the last, which a contender might treat as special by itself.
SPECIAL = 3

# What one backend can do: so many calls at once, the others wait in line. Seconds that a call takes on average, were
# there no line; the times are distributed exponentially. The capacity of ten is 800 calls per second. Times this long
# keep the processor out of the picture: a call needs 25 ms of somebody's worker but less than 1 ms of a core, so two
# cores carry the load without feeling it, and what is measured is the choice of the backend.
WORKERS = 2
SERVICE = 0.025


class Disturbance(enum.Enum):
    """What happens at the moment the measurement begins."""

    NONE = enum.auto()
    # The special backend's process is stopped (SIGSTOP): it keeps its connections and answers nothing.
    HANG = enum.auto()
    # One backend after the other is asked to end, does so gracefully, and is started again on its port.
    RESTART = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One question, with everything that is needed to ask it again.

    Attributes:
        name: what it is called on the command line.
        title: what it is called in print.
        slowness: how many times longer the special backend takes.
        fails: the special backend answers every call at once with UNAVAILABLE.
        disturbance: what happens when the measurement begins.
        clients: processes of a service would each have a pool; so many pools share the load, none knows the others.
        rate: calls per second, of all clients together.
        deadline: of each call, in seconds.
        warm_up: seconds of load before the measurement begins.
        seconds: how long it lasts.
        rounds: how often every contender is measured.
    """

    name: str
    title: str
    slowness: float = 1.0
    fails: bool = False
    disturbance: Disturbance = Disturbance.NONE
    clients: int = 1
    rate: float = 450.0
    deadline: float = 5.0
    warm_up: float = 1.0
    seconds: float
    rounds: int = 3

    @property
    def load(self) -> float:
        """The rate as a share of what all backends together can do in their present shape."""
        healthy = BACKENDS - 1 + (0 if self.fails or self.disturbance is Disturbance.HANG else 1 / self.slowness)
        return self.rate * SERVICE / (WORKERS * healthy)

    @property
    def has_special(self) -> bool:
        """Whether one backend differs from the others."""
        return self.slowness != 1.0 or self.fails or self.disturbance is Disturbance.HANG


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="slow",
            title="one of ten backends is ten times slower",
            slowness=10.0,
            # Many clients with little traffic each: nobody's own calls in flight say much about a backend.
            clients=10,
            warm_up=1.5,
            seconds=5.0,
        ),
        Scenario(
            name="hung",
            title="one of ten backends hangs, calls have a deadline of 1 s",
            disturbance=Disturbance.HANG,
            deadline=1.0,
            seconds=8.0,
        ),
        Scenario(
            name="failing",
            title="one of ten backends fails every call at once",
            fails=True,
            seconds=4.0,
        ),
        Scenario(
            name="equal",
            title="ten equal backends",
            seconds=4.0,
            # A comparison to within a few per cent wants more pairs than the others do.
            rounds=5,
        ),
        Scenario(
            name="restart",
            title="ten equal backends are restarted one after the other",
            disturbance=Disturbance.RESTART,
            seconds=7.0,
        ),
    )
}
