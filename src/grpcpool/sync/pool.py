"""The pool for sync code: a `grpc.Channel`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc

from .. import checks, registry
from ..config import PoolConfig, PoolOptions
from ..core.messages import Abort, Close, Resize
from ..errors import ConfigTypeError, PoolTimeout
from ..forks import NO_PICKLE
from .connect import building, plain_channel
from .room import CLOSE_TIMEOUT, SyncRoom

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from ..events import Listener
    from ..stats import PoolStats, PoolStatus

__all__ = ["ChannelPool", "insecure_channel", "secure_channel"]


class ChannelPool(grpc.Channel):
    """A pool of gRPC channels that is itself a `grpc.Channel`.

    Every RPC made through it runs on one of `size` real connections, chosen by the strategy; its calls are grpc's own
    call objects. Thread-safe, all of it. Opens on first use, or at `open`; a closed pool stays
    closed. Keep one for the life of the program: making channels is what a pool is there to avoid.

    Arguments:
        config: the recipe; see `PoolConfig`.

    Raises:
        ConfigError: there is no such strategy, or the name is taken by another open pool.
    """

    def __init__(self, config: PoolConfig) -> None:
        checks.require(isinstance(config, PoolConfig), "config", config, "a PoolConfig", wrong_type=True)
        checks.require(not config.per_loop, "per_loop", config.per_loop, "False: only aio pools belong to loops")
        self._room = SyncRoom(config)
        self._engine = self._room.engine
        self._config = config
        if config.name is not None:
            registry.register(config.name, self)

    # --- life

    def open(self) -> None:
        """Make the members and let them connect. Does not wait for that; harmless if the pool is open.

        Raises:
            PoolClosed: it was closed.
        """
        self._room.open()

    def close(self, grace: float | None = None) -> None:
        """Refuse new RPCs, and end: at once, or when the running ones have ended.

        Arguments:
            grace: None: running RPCs end CANCELLED now, as with grpc's own `close`. Seconds, 0 or more: they may end by
                themselves within that time, and only the rest is cancelled.

        Blocks for `grace` at the most. Idempotent, from any thread.
        """
        checks.waiting("grace", grace, optional=True)
        room, machine = self._room, self._engine.machine
        room.tell(Close())
        # Whatever interrupts the waiting, the rest is done.
        try:
            if grace:
                room.wait_for(lambda: not machine.slots, grace)
        finally:
            room.tell(Abort())
            room.halt()
            if self._config.name is not None:
                registry.unregister(self._config.name, self)
        room.wait_for(lambda: not machine.slots, CLOSE_TIMEOUT)
        room.join()

    def __enter__(self) -> Self:
        # As with grpc's channels, nothing happens before the first use.
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def wait_ready(self, timeout: float = 10.0, min_ready: int = 1) -> None:
        """Open the pool if need be, and wait until `min_ready` members are connected.

        Arguments:
            timeout: seconds, 0 or more.
            min_ready: 1 up to the pool's size.

        Raises:
            PoolTimeout: it took longer; the message has the pool's state and the last connection error.
            PoolClosed: the pool is closed, or was while this waited.
        """
        engine = self._engine
        machine = engine.machine
        checks.min_ready(min_ready, machine.size)
        checks.waiting("timeout", timeout)
        deadline = time.monotonic() + timeout
        self.open()
        left = max(deadline - time.monotonic(), 0)
        if not self._room.wait_for(lambda: len(engine.generation.members) >= min_ready or machine.closed, left):
            raise PoolTimeout(f"fewer than {min_ready} members connected within {timeout:g} s: {engine.describe()}")
        if machine.closed:
            self._room.refuse()

    # --- picking

    def get_channel(self) -> grpc.Channel:
        """Pick a connected member and return a channel bound to it; never blocks.

        The RPCs made on that channel run on that member and are counted, until the member retires; after that they go
        through the pool. The channel's `close` does nothing: the pool closes its members.

        Raises:
            NotConnected: no member is connected at this moment (the first use opens the pool: see `wait_ready`).
            PoolClosed: the pool is closed.
        """
        channel: grpc.Channel = self._engine.generation.pick_connected().bound
        return channel

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> grpc.UnaryUnaryMultiCallable[Any, Any]:
        """Return the multicallable of a unary method, as `grpc.Channel.unary_unary` does."""
        return self._room.front.unary_unary(method, request_serializer, response_deserializer, _registered_method)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> grpc.UnaryStreamMultiCallable[Any, Any]:
        """Return the multicallable of a server-streaming method, as `grpc.Channel.unary_stream` does."""
        return self._room.front.unary_stream(method, request_serializer, response_deserializer, _registered_method)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> grpc.StreamUnaryMultiCallable[Any, Any]:
        """Return the multicallable of a client-streaming method, as `grpc.Channel.stream_unary` does."""
        return self._room.front.stream_unary(method, request_serializer, response_deserializer, _registered_method)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> grpc.StreamStreamMultiCallable[Any, Any]:
        """Return the multicallable of a bidirectional method, as `grpc.Channel.stream_stream` does."""
        return self._room.front.stream_stream(method, request_serializer, response_deserializer, _registered_method)

    def _get_registered_call_handle(self, method: str) -> int:
        # Asked for by grpc's experimental one-line stubs, which hand it on as `_registered_method`. Each member has a
        # handle of its own, so there is none to give: the method is then called by its name.
        return 0

    # --- connectivity of the whole

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False
    ) -> None:
        """Tell `callback` the pool's connectivity now and whenever it changes: READY if any member is.

        Arguments:
            callback: called with a `grpc.ChannelConnectivity`, from a thread of the pool's.
            try_to_connect: open the pool. Without it the pool stays IDLE until it is used.
        """
        self._room.subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Tell `callback` no more; harmless if it was not told."""
        self._room.unsubscribe(callback)

    # --- resizing

    def scale_up(self, n: int) -> int:
        """Add `n` members, and return the new size when they are connected.

        Blocks for ``connect_timeout`` at the most. Picks go on undisturbed; each new member joins when it is READY.

        Raises:
            ScalingError: another resize is under way (nothing was changed), or some of the new members did not connect
                (those are let go; the error has the counts).
            PoolClosed: the pool is closed.
        """
        return self._resize(by=checks.positive(n))

    def scale_down(self, n: int) -> int:
        """Take `n` members out of the picks, and return the new size.

        Does not wait for them: each closes when its last RPC ends. Those without a connection go first, then those with
        the least to do, and the members stay spread evenly over the targets.

        Raises:
            ScalingError: no member would be left, or another resize is under way; nothing was changed.
            PoolClosed: the pool is closed.
        """
        return self._resize(by=-checks.positive(n))

    def resize(self, n: int) -> int:
        """Bring the pool to `n` members by `scale_up` or `scale_down`, and return the new size; see there."""
        return self._resize(to=checks.count(n))

    def _resize(self, by: int = 0, to: int | None = None) -> int:
        self.open()
        return self._room.ask(lambda ticket: Resize(ticket, by=by, to=to))

    # --- what it knows

    def status(self) -> PoolStatus:
        """Return the pool in one line: expected size, connected members, health."""
        return self._engine.status()

    def stats(self) -> PoolStats:
        """Return totals since the pool was made, and its members."""
        return self._engine.stats()

    def add_listener(self, listener: Listener) -> None:
        """Tell `listener` every event from now on; see `grpcpool.events`."""
        checks.listener(listener)
        self._engine.add_listener(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Tell `listener` no more; harmless if it was not told."""
        self._engine.remove_listener(listener)

    @property
    def config(self) -> PoolConfig:
        """The recipe."""
        return self._config

    def __reduce__(self) -> NoReturn:
        raise TypeError(NO_PICKLE)

    def __repr__(self) -> str:
        status = self._engine.status()
        connected = f"{status.current_size}/{status.expected_size} connected"
        closed = ", closed" if self._engine.machine.closed else ""
        return f"<grpcpool.ChannelPool {status.name!r}: {connected}{closed}>"


def insecure_channel(
    target: Any,
    options: Any = None,
    compression: grpc.Compression | None = None,
    **pool_options: Unpack[PoolOptions],
) -> ChannelPool:
    """Return a pool of plaintext channels: `grpc.insecure_channel`, times ``size``.

    Arguments:
        target: one gRPC target, or several over which the members are spread evenly.
        options, compression: as for grpc.
        pool_options: see `PoolConfig`.

    Raises:
        ConfigError: an option is unknown or not allowed; it is named.
    """
    return _channel(target, None, options, compression, pool_options)


def secure_channel(
    target: Any,
    credentials: Any,
    options: Any = None,
    compression: grpc.Compression | None = None,
    **pool_options: Unpack[PoolOptions],
) -> ChannelPool:
    """Return a pool of channels with TLS or other credentials: `grpc.secure_channel`, times ``size``.

    Arguments:
        target: one gRPC target, or several over which the members are spread evenly.
        credentials: `grpc.ChannelCredentials`, or a callable that returns some and is called for each member.
        options, compression: as for grpc.
        pool_options: see `PoolConfig`.

    Raises:
        ConfigError: an option is unknown or not allowed; it is named.
    """
    if credentials is None:
        raise ConfigTypeError("credentials", "None", "grpc.ChannelCredentials; insecure_channel() is for plaintext")
    return _channel(target, credentials, options, compression, pool_options)


def _channel(
    target: Any, credentials: Any, options: Any, compression: grpc.Compression | None, pool_options: Any
) -> ChannelPool:
    if building():
        # Called in the place of grpc's own factory, to make a member: see `build_channel`.
        return cast("ChannelPool", plain_channel(target, credentials, options, compression))
    fields = {"target": target, "credentials": credentials, "options": options, "compression": compression}
    return ChannelPool(PoolConfig.of(fields, pool_options))
