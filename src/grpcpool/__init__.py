"""A pool of gRPC channels that is itself a channel: N real, watched, load-balanced connections under any stub.

    channel = grpcpool.insecure_channel("localhost:50051", size=8)
    stub = EchoStub(channel)

`grpcpool.aio` is the same for ``grpc.aio``. `PoolConfig` documents every option, `events` what a pool tells its
listeners, `strategies` how members are chosen, and `testing` how to test a strategy of your own.
"""

from importlib import metadata as _metadata

from . import aio, events, strategies
from .config import PoolConfig, PoolOptions
from .endpoint import Endpoint
from .errors import (
    ConfigError,
    ConfigTypeError,
    NotConnected,
    PoolClosed,
    PoolError,
    PoolTimeout,
    ScalingError,
    UnknownPool,
)
from .registry import get_pool, pools
from .stats import MemberStats, PoolStats, PoolStatus
from .strategies import Member, Picker, Strategy
from .sync import ChannelPool, insecure_channel, secure_channel

__version__ = _metadata.version("grpcpool")

__all__ = [
    # making a pool
    "insecure_channel",
    "secure_channel",
    "ChannelPool",
    "PoolConfig",
    "PoolOptions",
    "Endpoint",
    "aio",
    # finding one
    "get_pool",
    "pools",
    # what it knows and tells
    "PoolStatus",
    "PoolStats",
    "MemberStats",
    "events",
    # how it chooses
    "strategies",
    "Strategy",
    "Picker",
    "Member",
    # what can go wrong
    "PoolError",
    "ConfigError",
    "ConfigTypeError",
    "NotConnected",
    "PoolTimeout",
    "PoolClosed",
    "ScalingError",
    "UnknownPool",
    "__version__",
]
