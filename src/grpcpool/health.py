"""What the options about the health of members mean together, and which of them contradict each other."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from . import checks

if TYPE_CHECKING:
    from .config import PoolConfig

__all__ = ["check"]


def check(config: PoolConfig) -> None:
    """Refuse what is no limit, no duration or no rate, and a health check that nothing is installed for.

    Raises:
        ConfigError: it names the option.
    """
    if config.max_consecutive_failures is not None:
        checks.integer("max_consecutive_failures", config.max_consecutive_failures, at_least=1)
    if config.min_success_rate is not None:
        _check_rate("min_success_rate", config.min_success_rate)
    for field in ("health_window", "ejection_min"):
        checks.seconds(field, getattr(config, field))
    checks.seconds("ejection_max", config.ejection_max, at_least=config.ejection_min)
    for field in ("unresponsive_after", "slow_start"):
        checks.seconds(field, getattr(config, field), optional=True)
    checks.flag("outlier_detection", config.outlier_detection)
    if config.health_check is not None:
        _check_service("health_check", config.health_check)


def _check_rate(field: str, value: object) -> None:
    allowed = "a rate above 0, and 1 at most, or None"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    checks.require(number, field, value, allowed, wrong_type=True)
    assert isinstance(value, (int, float))
    checks.require(0 < value <= 1, field, value, allowed)


def _check_service(field: str, value: object) -> None:
    allowed = "the name of a service, '' for the server as a whole, or None"
    checks.require(isinstance(value, str), field, value, allowed, wrong_type=True)
    # Found, not imported: that would bring protobuf to everybody who only writes a configuration.
    installed = importlib.util.find_spec("grpc_health") is not None
    checks.require(
        installed, field, value, "None, unless grpcio-health-checking is there: pip install 'grpcpool[health]'"
    )
