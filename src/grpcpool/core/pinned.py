"""Where the RPCs of one member's own channel go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lease import Lease
from .member import Member

if TYPE_CHECKING:
    from typing_extensions import Self

    from .engine import Engine

__all__ = ["Pinned"]


class Pinned:
    """Picks one member, and, if that is retired or full, whichever the pool picks. In the place of an `Engine`."""

    __slots__ = ("_engine", "_member")

    def __init__(self, engine: Engine, member: Member) -> None:
        self._engine = engine
        self._member = member

    @property
    def generation(self) -> Self:
        """Where to pick from: here."""
        return self

    def pick(self) -> Member:
        """Return the member, or another one if it is retired."""
        return self._engine.generation.pick() if self._member.retired else self._member

    def attempt(self, lease: Lease, member: Member | None = None) -> bool:
        """Take the lease on the member, or on another one if it is retired or full; False if all are full."""
        return self._engine.attempt(lease, member or self._member)

    def spare(self) -> Member | None:
        """Return a member that has room at this moment, or None."""
        return self._engine.spare()
