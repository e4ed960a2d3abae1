"""All that can be asked, by name."""

from __future__ import annotations

from .alldown import ALL_DOWN
from .blackhole import BLACK_HOLE, BLACK_HOLE_PROXY
from .budget import BUDGET, BUDGET_AWAY
from .failing import FAILING, INVALID
from .hedge import HEDGE
from .kill import KILL
from .restart import RESTART, RESTART_AIO
from .scenario import Scenario

__all__ = ["SCENARIOS"]

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        KILL,
        RESTART,
        RESTART_AIO,
        BLACK_HOLE,
        BLACK_HOLE_PROXY,
        FAILING,
        INVALID,
        ALL_DOWN,
        BUDGET,
        BUDGET_AWAY,
        HEDGE,
    )
}
