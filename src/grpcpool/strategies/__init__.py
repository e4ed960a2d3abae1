"""Selection strategies: which member serves the next RPC.

The built-in ones are found by name; so are those that an installed package offers as an entry point in the group
``grpcpool.strategies``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..errors import ConfigError, ConfigTypeError
from .adaptive import Adaptive, Strain
from .base import Clock, Member, Meter, Picker, Strategy
from .consistent_hash import ConsistentHash
from .least_in_flight import LeastInFlight
from .load import Failures, InFlight, PeakEwma
from .power_of_two import PowerOfTwo
from .round_robin import RoundRobin
from .uniform import Random
from .weighted_round_robin import WeightedRoundRobin

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "ENTRY_POINT_GROUP",
    "Adaptive",
    "Clock",
    "ConsistentHash",
    "Failures",
    "InFlight",
    "LeastInFlight",
    "Member",
    "Meter",
    "PeakEwma",
    "Picker",
    "PowerOfTwo",
    "Random",
    "RoundRobin",
    "Strain",
    "Strategy",
    "WeightedRoundRobin",
    "available",
    "resolve",
]

ENTRY_POINT_GROUP = "grpcpool.strategies"

_BUILT_IN: dict[str, Callable[[], Strategy]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "power_of_two": PowerOfTwo,
    "least_in_flight": LeastInFlight,
    "weighted_round_robin": WeightedRoundRobin,
    "consistent_hash": ConsistentHash,
    "peak_ewma": lambda: PowerOfTwo(PeakEwma()),
    "adaptive": Adaptive,
}


def available() -> tuple[str, ...]:
    """Return the names that `resolve` knows: the built-in ones, then the installed ones."""
    installed = {entry.name for entry in _entry_points()}
    return (*_BUILT_IN, *sorted(installed - _BUILT_IN.keys()))


def resolve(strategy: str | Strategy) -> Strategy:
    """Return the strategy that `strategy` names, or is.

    Arguments:
        strategy: a built-in name, the name of an entry point in the group ``grpcpool.strategies`` (a class or a
            callable without arguments that returns a strategy), or a strategy.

    Raises:
        ConfigError: nothing has that name, or what has it is no strategy.
    """
    if not isinstance(strategy, str):
        return _checked(strategy, repr(strategy))
    make = _BUILT_IN.get(strategy)
    if make is not None:
        return make()
    for entry in _entry_points():
        if entry.name == strategy:
            loaded = entry.load()
            return _checked(loaded() if callable(loaded) else loaded, f"entry point {entry.value!r}")
    raise ConfigError(
        "strategy", repr(strategy), f"one of {', '.join(available())}, or an object with a build() method"
    )


def _entry_points() -> Iterable[EntryPoint]:
    # Imported when it is needed, which is for names that are not built in: it takes longer than all the rest.
    from importlib import metadata

    return metadata.entry_points(group=ENTRY_POINT_GROUP)


def _checked(candidate: object, name: str) -> Strategy:
    # A class has a `build` too, but nothing to call it on: that mistake is common enough to be told apart here.
    if isinstance(candidate, type) or not isinstance(candidate, Strategy):
        raise ConfigTypeError("strategy", name, "a name, or an object with a build(members, *, rng, clock) method")
    return candidate
