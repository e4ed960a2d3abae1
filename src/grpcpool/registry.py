"""Finding a pool by its name."""

from __future__ import annotations

import threading
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, UnknownPool

if TYPE_CHECKING:
    from . import aio
    from .sync import ChannelPool

    AnyPool = ChannelPool | aio.ChannelPool

__all__ = ["get_pool", "pools", "register", "unregister"]

# The one thing in this package that is global, because finding a pool from anywhere is what it is for. It keeps no
# pool alive.
_pools: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_guard = SimpleNamespace(lock=threading.Lock())


def register(name: str, pool: AnyPool) -> None:
    """Make `pool` known as `name`; a name that an open pool bears is refused."""
    with _guard.lock:
        if name in _pools:
            raise ConfigError("name", repr(name), "a name that no other open pool has")
        _pools[name] = pool


def unregister(name: str, pool: AnyPool) -> None:
    """Forget `pool`, if it is known as `name`."""
    with _guard.lock:
        if _pools.get(name) is pool:
            del _pools[name]


def renew() -> None:
    """Begin anew in a forked process, where the lock may be held by a thread that does not exist. Names stay."""
    _guard.lock = threading.Lock()


def get_pool(name: str) -> Any:
    """Return the pool that was made with ``name=name`` and is not closed: a `ChannelPool` or an `aio.ChannelPool`.

    Raises:
        UnknownPool: there is none.
    """
    with _guard.lock:
        pool = _pools.get(name)
        if pool is None:
            known = ", ".join(sorted(map(repr, _pools))) or "none"
            raise UnknownPool(f"no open pool is named {name!r}; the open pools that have a name: {known}")
        return pool


def pools() -> dict[str, Any]:
    """Return every named pool that is not closed, by name."""
    with _guard.lock:
        return dict(_pools)
