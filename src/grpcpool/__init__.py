"""A pool of gRPC channels that is itself a channel: N real, watched, load-balanced connections under any stub.

    channel = grpcpool.insecure_channel("localhost:50051", size=8)
    stub = EchoStub(channel)

`grpcpool.aio` is the same for ``grpc.aio``. `PoolConfig` documents every option, `events` what a pool tells its
listeners, `strategies` how members are chosen, and `testing` how to test a strategy of your own.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from . import originals as _originals  # noqa: F401  # before anybody replaces grpc's factories

if _TYPE_CHECKING:
    from . import aio as aio
    from . import events as events
    from . import strategies as strategies
    from .config import PoolConfig as PoolConfig
    from .config import PoolOptions as PoolOptions
    from .endpoint import Endpoint as Endpoint
    from .errors import (
        ConfigError as ConfigError,
    )
    from .errors import (
        ConfigTypeError as ConfigTypeError,
    )
    from .errors import (
        NotConnected as NotConnected,
    )
    from .errors import (
        PoolClosed as PoolClosed,
    )
    from .errors import (
        PoolError as PoolError,
    )
    from .errors import (
        PoolFull as PoolFull,
    )
    from .errors import (
        PoolTimeout as PoolTimeout,
    )
    from .errors import (
        ScalingError as ScalingError,
    )
    from .errors import (
        UnknownPool as UnknownPool,
    )
    from .keys import affinity as affinity
    from .registry import get_pool as get_pool
    from .registry import pools as pools
    from .retry import Retry as Retry
    from .stats import MemberStats as MemberStats
    from .stats import PoolStats as PoolStats
    from .stats import PoolStatus as PoolStatus
    from .strategies import Member as Member
    from .strategies import Picker as Picker
    from .strategies import Strategy as Strategy
    from .sync import (
        ChannelPool as ChannelPool,
    )
    from .sync import (
        insecure_channel as insecure_channel,
    )
    from .sync import (
        secure_channel as secure_channel,
    )

    __version__: str

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
    # what it does for RPCs that fail
    "Retry",
    # what it knows and tells
    "PoolStatus",
    "PoolStats",
    "MemberStats",
    "events",
    # how it chooses
    "affinity",
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
    "PoolFull",
    "PoolClosed",
    "ScalingError",
    "UnknownPool",
    "__version__",
]

# Where each name lives; loaded when it is first used (PEP 562). Code that uses one room need not wait for the other,
# and a program that only imports this package somewhere waits for neither.
_HOMES = {
    "sync": ("insecure_channel", "secure_channel", "ChannelPool"),
    "config": ("PoolConfig", "PoolOptions"),
    "endpoint": ("Endpoint",),
    "keys": ("affinity",),
    "registry": ("get_pool", "pools"),
    "retry": ("Retry",),
    "stats": ("PoolStatus", "PoolStats", "MemberStats"),
    "strategies": ("Strategy", "Picker", "Member"),
    "errors": (
        "PoolError",
        "ConfigError",
        "ConfigTypeError",
        "NotConnected",
        "PoolTimeout",
        "PoolFull",
        "PoolClosed",
        "ScalingError",
        "UnknownPool",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_SUBMODULES = ("aio", "events", "strategies", "sync", "testing")


def __getattr__(name: str) -> object:
    value: object
    if name in _HOME_OF:
        value = getattr(_import_module(f".{_HOME_OF[name]}", __name__), name)
    elif name in _SUBMODULES:
        value = _import_module(f".{name}", __name__)
    elif name == "__version__":
        from importlib.metadata import version

        value = version(__name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
