"""Where the RPCs of one member's own channel go."""

from __future__ import annotations

from collections.abc import Collection
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

    @property
    def eligible(self) -> tuple[Member, ...]:
        """Those that may be picked."""
        return self._engine.generation.eligible

    def pick(self) -> Member:
        """Return the member, or another one if it is retired."""
        self._engine.halt()
        return self._engine.generation.pick() if self._member.retired else self._member

    def attempt(self, lease: Lease, member: Member | None = None) -> bool:
        """Take the lease on the member, or on another one if it is retired or full; False if all are full."""
        self._engine.halt()
        return self._engine.attempt(lease, member or self._member)

    def elsewhere(self, lease: Lease, tried: Collection[Member], *, only: bool = False) -> bool:
        """Take the lease on a member not among `tried`, if there is one; else as the pool would, unless `only`."""
        return self._engine.elsewhere(lease, tried, only=only)

    def spare(self, tried: Collection[Member] = ()) -> Member | None:
        """Return a member that has room at this moment and is not among `tried`, or None."""
        return self._engine.spare(tried)
