"""What users say about RPCs that may be sent more than once, and what that means for each method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import grpc

from . import checks
from .errors import ConfigError

if TYPE_CHECKING:
    from .config import PoolConfig

__all__ = ["P95", "Hedge", "Retry", "check", "for_method", "hedge_for", "may_repeat", "patterns"]

# Instead of a number of seconds to hedge after: the time in which 95 of 100 calls of the method are answered.
P95 = "p95"
Hedge = float | str
# More than that is a loop by mistake.
MOST_ATTEMPTS = 10


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How RPCs of idempotent methods are sent again when they fail. Frozen, checked once.

    Attributes:
        attempts: how often an RPC is sent in all, the first time included: 2 to 10. Default 3.
        backoff_min, backoff_max: before the second attempt an RPC rests for any time up to `backoff_min` seconds, and
            up to twice as long before each further one, but never longer than `backoff_max`. Above 0; default 0.05 and
            1. (The shape is gRFC A6's.)
        codes: the statuses after which it is worth another attempt: ``grpc.StatusCode`` members. Default: UNAVAILABLE.

    Raises:
        ConfigError: a value is not allowed; it is named.
    """

    attempts: int = 3
    backoff_min: float = 0.05
    backoff_max: float = 1.0
    codes: Iterable[grpc.StatusCode] = (grpc.StatusCode.UNAVAILABLE,)

    def __post_init__(self) -> None:
        checks.integer("attempts", self.attempts, at_least=2)
        checks.require(self.attempts <= MOST_ATTEMPTS, "attempts", self.attempts, f"2 to {MOST_ATTEMPTS}")
        checks.seconds("backoff_min", self.backoff_min)
        checks.seconds("backoff_max", self.backoff_max, at_least=self.backoff_min)
        codes: Any = self.codes
        one = isinstance(codes, grpc.StatusCode)
        codes = frozenset((codes,) if one else checks.sequence("codes", codes))
        good = bool(codes) and all(isinstance(code, grpc.StatusCode) for code in codes)
        checks.require(good, "codes", self.codes, "one or more grpc.StatusCode members", wrong_type=True)
        # Neither failed.
        for code in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED):
            checks.require(code not in codes, "codes", code.name, "statuses of RPCs that failed")
        object.__setattr__(self, "codes", codes)


def patterns(field: str, given: Any) -> tuple[str, ...]:
    """Return names of methods as a tuple, checked: ``"/package.Service/Method"``, ``"/package.Service/*"`` or ``"*"``.

    Raises:
        ConfigError: one is something else; it is named.
    """
    names = (given,) if isinstance(given, str) else checks.sequence(field, given)
    for name in names:
        _check_pattern(field, name)
    return tuple(names)


def _check_pattern(field: str, name: object) -> None:
    allowed = "'/package.Service/Method', '/package.Service/*' or '*'"
    good = isinstance(name, str) and (
        name == "*" or (name.startswith("/") and name.count("/") == 2 and all(name[1:].split("/")))
    )
    checks.require(good, field, name, allowed, wrong_type=not isinstance(name, str))


def check(config: PoolConfig) -> None:
    """Refuse what is no policy, and policies that no method could ever come under.

    Raises:
        ConfigError: it names the option.
    """
    for field, one in (("retry", _check_retry), ("hedge_after", _check_hedge)):
        given: Any = getattr(config, field)
        if isinstance(given, Mapping):
            for name, value in given.items():
                _check_pattern(field, name)
                one(value)
        else:
            one(given)
        if given is not None and not config.idempotent:
            allowed = (
                "it needs `idempotent`, which says what methods may be served twice, such as ['/package.Service/Get'] "
                "or ['/package.Reads/*']"
            )
            raise ConfigError(field, repr(given), allowed)


def _check_retry(value: object) -> None:
    good = value is None or isinstance(value, Retry)
    checks.require(good, "retry", value, "a grpcpool.Retry, None, or a mapping from methods to these", wrong_type=True)


def _check_hedge(value: object) -> None:
    if isinstance(value, str):
        checks.require(
            value == P95, "hedge_after", value, f"seconds, {P95!r}, None, or a mapping from methods to these"
        )
    else:
        checks.seconds("hedge_after", value, optional=True)


def may_repeat(config: PoolConfig, method: str) -> bool:
    """Say whether the method is declared to be idempotent."""
    return any(name in config.idempotent for name in _names_for(method))


def for_method(config: PoolConfig, method: str) -> Retry | None:
    """Return how RPCs of the method are sent again when they fail; None: they are not."""
    found: Retry | None = _find(config.retry, method) if may_repeat(config, method) else None
    return found


def hedge_for(config: PoolConfig, method: str) -> float | None:
    """Return after how many seconds a second copy of an RPC of the method is sent; 0: after the p95; None: never."""
    found: Any = _find(config.hedge_after, method) if may_repeat(config, method) else None
    return 0.0 if found == P95 else cast("float | None", found)


def hedges(config: PoolConfig) -> bool:
    """Say whether second copies are sent of RPCs of any method."""
    given = config.hedge_after
    return any(value is not None for value in (given.values() if isinstance(given, Mapping) else (given,)))


def _find(given: Any, method: str) -> Any:
    if not isinstance(given, Mapping):
        return given
    # The most particular one wins, also if it says None.
    return next((given[name] for name in _names_for(method) if name in given), None)


def _names_for(method: str) -> tuple[str, str, str]:
    return method, f"{method.rpartition('/')[0]}/*", "*"
