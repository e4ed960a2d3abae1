"""Affinity keys that stand in the metadata of RPCs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..keys import affinity
from .lease import Lease
from .member import Member

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..strategies.base import Strategy
    from .engine import Engine
    from .pinned import Pinned

__all__ = ["KeyedSource", "announced", "require_keyed"]

Block = AbstractContextManager[None]

_NO_KEY: Block = nullcontext()
# What the pick of the RPC that is being started here is to be made in.
_BLOCK: ContextVar[Block] = ContextVar("grpcpool.affinity.header", default=_NO_KEY)


class KeyedSource:
    """Picks as another source does, under the key that was `announced`. In the place of an `Engine`, for that.

    The key is in force during the pick, and not as long as the RPC takes to start: grpc then makes threads and tasks
    that inherit it. In these run the user's iterators, interceptors and callbacks, of other RPCs too, which may start
    RPCs of their own.
    """

    __slots__ = ("_source",)

    def __init__(self, source: Engine | Pinned) -> None:
        self._source = source

    @property
    def generation(self) -> Self:
        """Where to pick from: here."""
        return self

    @property
    def eligible(self) -> tuple[Member, ...]:
        """Those that may be picked."""
        return self._source.generation.eligible

    def pick(self) -> Member:
        """Return the member that is to serve the RPC."""
        with _BLOCK.get():
            return self._source.generation.pick()

    def attempt(self, lease: Lease, member: Member | None = None) -> bool:
        """Take the lease on a member, if that was picked, or on another one if it is full; False if all are full."""
        with _BLOCK.get():
            return self._source.attempt(lease, member)

    def elsewhere(self, lease: Lease, tried: Collection[Member], *, only: bool = False) -> bool:
        """Take the lease on a member that is not among `tried`, if there is one; else as `attempt`, unless `only`."""
        with _BLOCK.get():
            return self._source.elsewhere(lease, tried, only=only)

    def spare(self, tried: Collection[Member] = ()) -> Member | None:
        """Return a member that has room at this moment and is not among `tried`, or None."""
        return self._source.spare(tried)


@contextmanager
def announced(header: str, metadata: Any) -> Iterator[Any]:
    """Have the picks in the block made under the key that `metadata` has in `header`; without one, as outside.

    Yields the metadata to pass on: what could be read only once has been.
    """
    if metadata and not isinstance(metadata, Collection):
        metadata = tuple(metadata)
    token = _BLOCK.set(_block(header, metadata or ()))
    try:
        yield metadata
    finally:
        _BLOCK.reset(token)


def _block(header: str, metadata: Collection[Any]) -> Block:
    # What is malformed is passed over here: grpc refuses the RPC, and says why.
    for pair in metadata:
        try:
            name, value = pair
        except (TypeError, ValueError):
            continue
        if isinstance(name, bytes):
            name = name.decode(errors="replace")
        if name == header:
            try:
                return affinity(value)
            except (TypeError, ValueError):
                # It is empty, or nothing that could be sent.
                return _NO_KEY
    return _NO_KEY


def require_keyed(header: str, strategy: Strategy, given: str | Strategy) -> None:
    """Refuse a header with keys for a strategy that asks for no keys.

    Arguments:
        given: what the strategy was asked for by.

    Raises:
        ConfigError: `strategy` is such a one.
    """
    if not getattr(strategy, "keyed", False):
        name = repr(given) if isinstance(given, str) else type(given).__name__
        allowed = f"it needs a strategy that routes by key, such as 'consistent_hash': {name} takes no notice of keys"
        raise ConfigError("affinity_header", repr(header), allowed)
