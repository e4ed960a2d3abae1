"""What can go wrong, in one tree.

Everything grpcpool raises by itself is a `PoolError`. Where grpc or Python would raise a type of its own for the
same mistake, ours is a subclass of that too, so that an existing ``except`` clause keeps working: wrong configuration
is a `ValueError` (or `TypeError`), use after close is a `ValueError`, a timeout is a `TimeoutError`. The rooms `sync`
and `aio` add what only they can know: flavours that are also a ``grpc.RpcError`` or a ``grpc.aio.UsageError``.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "ConfigTypeError",
    "NotConnected",
    "PoolClosed",
    "PoolError",
    "PoolFull",
    "PoolTimeout",
    "ScalingError",
    "UnknownPool",
]


class PoolError(Exception):
    """The root of everything that grpcpool raises by itself."""


class ConfigError(PoolError, ValueError):
    """A configuration value is not allowed; nothing was built.

    Attributes:
        field: the option's name.
        value: what was given, as text; hidden where it could be a secret.
        allowed: what is allowed, in words.
    """

    def __init__(self, field: str, value: str, allowed: str) -> None:
        super().__init__(field, value, allowed)
        self.field = field
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.field}: {self.value} is not allowed; {self.allowed}"


class ConfigTypeError(ConfigError, TypeError):
    """A configuration value is of the wrong type, or the option does not exist."""


class NotConnected(PoolError):
    """No member of the pool has a working connection at this moment."""


class PoolTimeout(PoolError, TimeoutError):
    """The pool did not get ready in time, or had no room for an RPC in time; the message carries its state."""


class PoolFull(PoolError):
    """Every member has as many RPCs in flight as it may, and as many more wait as may; the RPC was not sent."""


class PoolClosed(PoolError, ValueError):
    """The pool was closed, and a closed pool stays closed: make a new one."""


class ScalingError(PoolError):
    """A resize was refused, or only partly done.

    Attributes:
        requested: by how many members the pool was to grow or shrink.
        succeeded: how many of them did.
        failed: how many did not.
        size: the pool's size now.
    """

    def __init__(self, message: str, *, size: int, requested: int = 0, succeeded: int = 0, failed: int = 0) -> None:
        super().__init__(message)
        self.size = size
        self.requested = requested
        self.succeeded = succeeded
        self.failed = failed


class UnknownPool(PoolError, LookupError):
    """No open pool has that name."""
