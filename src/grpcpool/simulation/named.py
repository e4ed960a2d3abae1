"""Strategies by name: one of their own for each client."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from importlib import metadata
from operator import attrgetter
from typing import Any

from ..errors import ConfigError
from ..strategies import ENTRY_POINT_GROUP, Strategy, available, resolve

__all__ = ["contender", "contenders"]


def contenders() -> tuple[str, ...]:
    """Return the names of all strategies that can be compared: those that do not go by affinity keys."""
    return tuple(name for name in available() if not getattr(resolve(name), "keyed", False))


def contender(name: str) -> Callable[[], Strategy]:
    """Return what makes new strategies of this name.

    Arguments:
        name: a built-in strategy; an entry point in the group ``grpcpool.strategies``; or ``module:object``, where the
            object is a class or a callable without arguments that returns a strategy, or a strategy, of which each
            client then gets a deep copy.

    Raises:
        ConfigError: there is no such strategy.
    """
    try:
        make = _found(name)
        resolve(make())
    except ConfigError as error:
        raise type(error)("strategy", repr(name), error.allowed) from None
    except Exception as error:
        # Somebody else's code may raise anything.
        what = f"{name!r} ({type(error).__name__}: {error})"
        raise ConfigError("strategy", what, "what it names must be there and do without arguments") from error
    return make


def _found(name: str) -> Callable[[], Any]:
    if ":" in name:
        module, _, path = name.partition(":")
        return _maker(attrgetter(path)(importlib.import_module(module)))
    if name not in available():
        raise ConfigError("strategy", repr(name), f"one of {', '.join(available())}, or module:object")
    installed = [entry for entry in metadata.entry_points(group=ENTRY_POINT_GROUP) if entry.name == name]
    if not installed or type(resolve(name)).__module__.startswith("grpcpool."):
        return lambda: resolve(name)
    # Looked for once: a simulation may have hundreds of clients.
    return _maker(installed[0].load())


def _maker(found: Any) -> Callable[[], Any]:
    if isinstance(found, type) or not hasattr(found, "build"):
        return lambda: found() if callable(found) else found
    return lambda: copy.deepcopy(found)
