"""What the options of a pool of varying size mean together, and which of them contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import checks

if TYPE_CHECKING:
    from .config import PoolConfig

__all__ = ["band_of", "check"]

# What HTTP/2 recommends as the least that a server should allow (RFC 9113, section 6.5.2), and many allow just that.
STREAMS = 100
# Of those a member should carry between one and four fifths: so that there is room for what comes until another one is
# connected, and so that a pool which has just grown is not at once too large.
LOW, HIGH = 0.2, 0.8


def check(config: PoolConfig) -> None:
    """Refuse sizes and bands that contradict each other, and what could never have an effect.

    Raises:
        ConfigError: it names the option.
    """
    least, most = config.min_size, config.max_size
    if least is None:
        for field in ("target_in_flight", "max_idle"):
            allowed = "None, for a pool whose size is fixed; min_size and max_size let it vary"
            checks.require(getattr(config, field) is None, field, getattr(config, field), allowed)
        return
    targets = len(config.endpoints)
    checks.integer("min_size", least, at_least=1)
    checks.require(least >= targets, "min_size", least, f"at least {targets}, one member for each of the targets")
    checks.require(
        most is not None, "min_size", least, "max_size beside it, above it; for a fixed size there is `size`"
    )
    checks.integer("max_size", most, at_least=1)
    allowed = f"above min_size, which is {least}; for a fixed size there is `size`"
    checks.require(most is not None and most > least, "max_size", most, allowed)
    checks.require(config.size is None, "size", config.size, "None beside min_size, with which such a pool begins")
    if config.target_in_flight is not None:
        _check_band(config.target_in_flight, config.max_concurrent_streams)


def band_of(config: PoolConfig) -> tuple[float, float] | None:
    """Return the RPCs in flight per member between which the size is left alone; None if it is fixed."""
    if config.min_size is None:
        return None
    if config.target_in_flight is not None:
        return config.target_in_flight
    streams = config.max_concurrent_streams or STREAMS
    return LOW * streams, HIGH * streams


def _check_band(band: Any, cap: int | None) -> None:
    field, allowed = "target_in_flight", "a pair (low, high) of numbers, 0 <= low < high"
    pair = isinstance(band, tuple) and len(band) == 2
    numbers = pair and all(isinstance(edge, (int, float)) and not isinstance(edge, bool) for edge in band)
    checks.require(numbers, field, band, allowed, wrong_type=True)
    low, high = band
    checks.require(0 <= low < high <= checks.MOST, field, band, allowed)
    if cap is not None:
        checks.integer("max_concurrent_streams", cap, at_least=1)
        # No member would ever pass that edge; and a pool that shrank towards the middle of such a band might be full.
        allowed = f"with a high of {cap} at most, which is max_concurrent_streams"
        checks.require(high <= cap, field, band, allowed)
