"""From a configuration to a running engine: the part of making a pool that both rooms share."""

from __future__ import annotations

import random
import time
from typing import cast

from .config import PoolConfig
from .core.affinity import require_keyed
from .core.engine import Engine
from .core.member import UNLIMITED
from .core.room import Room
from .core.slot import Policy
from .elastic import band_of
from .events import Listener
from .strategies import resolve
from .telemetry.logging import writer

__all__ = ["assemble"]


def assemble(config: PoolConfig, room: Room) -> Engine:
    """Return an engine for the pool that `config` describes, to act through `room`.

    Raises:
        ConfigError: there is no such strategy, or it does not go with the rest.
    """
    strategy = resolve(config.strategy)
    if config.affinity_header is not None:
        require_keyed(config.affinity_header, strategy, config.strategy)
    policy = Policy(
        name=config.label,
        endpoints=config.endpoints,
        size=config.member_count,
        cap=min(config.max_concurrent_streams or UNLIMITED, UNLIMITED),
        max_waiting=config.max_waiting,
        bounds=(config.min_size or config.member_count, config.max_size or config.member_count),
        band=band_of(config),
        scale_down_interval=config.scale_down_interval,
        max_lifetime=config.max_lifetime,
        max_idle=config.max_idle,
        primed=config.primer is not None,
        primer_timeout=config.primer_timeout,
        drain_timeout=config.drain_timeout,
        backoff_min=config.backoff_min,
        backoff_max=config.backoff_max,
        max_reconnect_attempts=config.max_reconnect_attempts,
        connect_timeout=config.connect_timeout,
        ping_interval=config.ping_interval,
        telemetry_interval=config.telemetry_interval,
        ping_timeout=config.ping_timeout,
        max_consecutive_failures=config.max_consecutive_failures,
        min_success_rate=config.min_success_rate,
        health_window=config.health_window,
        outlier_detection=config.outlier_detection,
        unresponsive_after=config.unresponsive_after,
        ejection_min=config.ejection_min,
        ejection_max=config.ejection_max,
        slow_start=config.slow_start,
        watched=config.health_check is not None,
    )
    return Engine(
        room,
        policy,
        strategy,
        clock=time.monotonic,
        rng=random.Random(config.seed),
        log=writer(log_connection_errors=config.log_connection_errors),
        listeners=cast("tuple[Listener, ...]", config.listeners),
        sample_rate=config.telemetry_sample_rate,
    )
