"""Strategies by name: one of their own for each client."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
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
    if ":" in name:
        make = _maker(_imported(name))
    else:
        first = resolve(name)
        installed = [entry for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.name == name]
        if not installed or type(first).__module__.startswith("grpcpool."):
            return lambda: resolve(name)
        # Looked for once: a simulation may have hundreds of clients.
        make = _maker(installed[0].load())
    try:
        resolve(make())
    except ConfigError as error:
        raise type(error)("strategy", repr(name), error.allowed) from None
    except TypeError as error:
        raise ConfigError("strategy", f"{name!r} ({error})", "a callable must do without arguments") from None
    return make


def _imported(name: str) -> Any:
    module, _, path = name.partition(":")
    allowed = "module:object, the module one that can be imported, the object a strategy or what makes one"
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError("strategy", f"{name!r} ({error})", allowed) from None
    return found


def _maker(found: Any) -> Callable[[], Strategy]:
    if isinstance(found, type) or not hasattr(found, "build"):
        make: Callable[[], Strategy] = found if callable(found) else lambda: found
        return make
    return lambda: copy.deepcopy(found)
