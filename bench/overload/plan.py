"""What a scenario is asked for, and what it hands in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..report import Figure

__all__ = ["Plan", "Result"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How thoroughly to measure.

    Attributes:
        quick: a look, not a verdict.
        rounds, seconds: how often and how long; None: as the scenario says.
        before: a checkout of an older version, to compare costs with; None: there is none.
    """

    quick: bool = False
    rounds: int | None = None
    seconds: float | None = None
    before: Path | None = None

    def how_often(self, usual: int, quick: int = 1) -> int:
        """Return the number of rounds for a scenario that has a usual one, and one for a look."""
        return self.rounds or (quick if self.quick else usual)

    def how_long(self, usual: float, quick: float) -> float:
        """Return the seconds for a scenario that has usual ones, and some for a look."""
        return self.seconds or (quick if self.quick else usual)


@dataclass(slots=True)
class Result:
    """What came out.

    Attributes:
        figures: with their bars.
        table: rows of cells, the head first; for the eye.
        record: all there is to say, as JSON can hold it.
    """

    figures: list[Figure] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    record: list[dict[str, Any]] = field(default_factory=list)
