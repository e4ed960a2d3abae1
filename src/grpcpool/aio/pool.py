"""The pool for aio code: a `grpc.aio.Channel`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc

from .. import checks, registry
from ..config import AioOptions, PoolConfig
from ..core.messages import Abort, Close, Resize
from ..errors import ConfigTypeError, PoolTimeout
from ..forks import NO_PICKLE
from .connect import building, plain_channel
from .room import AioRoom

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from ..events import Listener
    from ..stats import PoolStats, PoolStatus

__all__ = ["ChannelPool", "insecure_channel", "secure_channel"]


class ChannelPool(grpc.aio.Channel):
    """A pool of gRPC channels that is itself a `grpc.aio.Channel`.

    Every RPC made through it runs on one of `size` real connections, chosen by the strategy; its calls are grpc's own
    call objects. Opens on first use, or at `open`; a closed pool stays closed. Keep one for the life of the program:
    making channels is what a pool is there to avoid.

    It may be made anywhere, and belongs to the event loop that it is first used on: use on another loop raises a
    `grpc.aio.UsageError` that names both. When its loop has been closed it begins anew on the next one, with fresh
    members. With ``per_loop=True`` it has members for each loop. Not thread-safe, as nothing in asyncio is.

    Arguments:
        config: the recipe; see `PoolConfig`.

    Raises:
        ConfigError: there is no such strategy, or the name is taken by another open pool.
    """

    def __new__(cls, config: PoolConfig) -> Self:
        """Return a pool, or, with ``per_loop=True``, one for all loops."""
        checks.require(isinstance(config, PoolConfig), "config", config, "a PoolConfig", wrong_type=True)
        if cls is ChannelPool and config.per_loop:
            from .per_loop import PerLoopChannelPool

            return cast("Self", object.__new__(PerLoopChannelPool))
        return super().__new__(cls)

    def __init__(self, config: PoolConfig) -> None:
        self._room = AioRoom(config)
        self._engine = self._room.engine
        self._front: Any = self._room.front
        self._config = config
        # Under these names grpc.aio's channels keep their interceptors, and generated clients append to them.
        self._unary_unary_interceptors = self._room.interceptors["unary_unary"]
        self._unary_stream_interceptors = self._room.interceptors["unary_stream"]
        self._stream_unary_interceptors = self._room.interceptors["stream_unary"]
        self._stream_stream_interceptors = self._room.interceptors["stream_stream"]
        if config.name is not None:
            registry.register(config.name, self)

    # --- life

    async def open(self) -> None:
        """Make the members and let them connect. Does not wait for that; harmless if the pool is open.

        Raises:
            PoolClosed: it was closed.
        """
        self._room.open()

    async def close(self, grace: float | None = None) -> None:
        """Refuse new RPCs, and end: at once, or when the running ones have ended.

        Arguments:
            grace: None: running RPCs end CANCELLED now, as with grpc's own `close`. Seconds, 0 or more: they may end by
                themselves within that time, and only the rest is cancelled.

        Waits for `grace` at the most. Idempotent. If this is cancelled while it waits, what still runs is cancelled.
        """
        checks.waiting("grace", grace, optional=True)
        room = self._room
        if self._engine.machine.opened is not None:
            room.bind()
        machine = self._engine.machine
        room.tell(Close())
        try:
            if grace:
                await room.wait_for(lambda: not machine.slots, grace)
        finally:
            room.tell(Abort())
            room.halt()
            if self._config.name is not None:
                registry.unregister(self._config.name, self)
        await room.join()

    async def __aenter__(self) -> Self:
        # As with grpc's channels, nothing happens before the first use.
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def wait_ready(self, timeout: float = 10.0, min_ready: int = 1) -> None:
        """Open the pool if need be, and wait until `min_ready` members are connected.

        Arguments:
            timeout: seconds, 0 or more.
            min_ready: 1 up to the pool's size.

        Raises:
            PoolTimeout: it took longer; the message has the pool's state and the last connection error.
            PoolClosed: the pool is closed, or was while this waited.
        """
        engine = self._engine
        checks.min_ready(min_ready, engine.machine.size)
        checks.waiting("timeout", timeout)
        await self.open()
        machine = engine.machine
        if not await self._room.wait_for(
            lambda: len(engine.generation.members) >= min_ready or machine.closed, timeout
        ):
            raise PoolTimeout(f"fewer than {min_ready} members connected within {timeout:g} s: {engine.describe()}")
        if machine.closed:
            self._room.refuse()

    # --- picking

    def get_channel(self) -> grpc.aio.Channel:
        """Pick a connected member and return a channel bound to it; never blocks.

        The RPCs made on that channel run on that member and are counted, until the member retires; after that they go
        through the pool. The channel's `close` does nothing: the pool closes its members.

        Raises:
            NotConnected: no member is connected at this moment (the first use opens the pool: see `wait_ready`).
            PoolClosed: the pool is closed.
        """
        channel: grpc.aio.Channel = self._engine.generation.pick_connected().bound
        return channel

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return the multicallable of a unary method, as `grpc.aio.Channel.unary_unary` does."""
        return self._front.unary_unary(method, request_serializer, response_deserializer, _registered_method)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return the multicallable of a server-streaming method, as `grpc.aio.Channel.unary_stream` does."""
        return self._front.unary_stream(method, request_serializer, response_deserializer, _registered_method)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return the multicallable of a client-streaming method, as `grpc.aio.Channel.stream_unary` does."""
        return self._front.stream_unary(method, request_serializer, response_deserializer, _registered_method)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Return the multicallable of a bidirectional method, as `grpc.aio.Channel.stream_stream` does."""
        return self._front.stream_stream(method, request_serializer, response_deserializer, _registered_method)

    # --- connectivity of the whole

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the pool's connectivity: READY if any member is.

        Arguments:
            try_to_connect: open the pool. Without it the pool stays IDLE until it is used.
        """
        return self._room.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the pool's connectivity differs from `last_observed_state`; at once if it does already."""
        await self._room.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Open the pool if need be, and wait until it is READY, however long that takes; see `wait_ready`."""
        await self._room.channel_ready()

    # --- resizing

    async def scale_up(self, n: int) -> int:
        """Add `n` members, and return the new size when they are connected.

        Waits for ``connect_timeout`` at the most. Picks go on undisturbed; each new member joins when it is READY.

        Raises:
            ScalingError: another resize is under way (nothing was changed), or some of the new members did not connect
                (those are let go; the error has the counts).
            PoolClosed: the pool is closed.
        """
        return await self._resize(by=checks.positive(n))

    async def scale_down(self, n: int) -> int:
        """Take `n` members out of the picks, and return the new size.

        Does not wait for them: each closes when its last RPC ends. Those without a connection go first, then those with
        the least to do, and the members stay spread evenly over the targets.

        Raises:
            ScalingError: no member would be left, or another resize is under way; nothing was changed.
            PoolClosed: the pool is closed.
        """
        return await self._resize(by=-checks.positive(n))

    async def resize(self, n: int) -> int:
        """Bring the pool to `n` members by `scale_up` or `scale_down`, and return the new size; see there."""
        return await self._resize(to=checks.count(n))

    async def _resize(self, by: int = 0, to: int | None = None) -> int:
        await self.open()
        return await self._room.ask(lambda ticket: Resize(ticket, by=by, to=to))

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
        return f"<grpcpool.aio.ChannelPool {status.name!r}: {connected}{closed}>"


def insecure_channel(
    target: Any,
    options: Any = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[Any] | None = None,
    **pool_options: Unpack[AioOptions],
) -> ChannelPool:
    """Return a pool of plaintext channels: `grpc.aio.insecure_channel`, times ``size``.

    Arguments:
        target: one gRPC target, or several over which the members are spread evenly.
        options, compression, interceptors: as for grpc.aio.
        pool_options: see `PoolConfig`.

    Raises:
        ConfigError: an option is unknown or not allowed; it is named.
    """
    return _channel(target, None, options, compression, interceptors, pool_options)


def secure_channel(
    target: Any,
    credentials: Any,
    options: Any = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[Any] | None = None,
    **pool_options: Unpack[AioOptions],
) -> ChannelPool:
    """Return a pool of channels with TLS or other credentials: `grpc.aio.secure_channel`, times ``size``.

    Arguments:
        target: one gRPC target, or several over which the members are spread evenly.
        credentials: `grpc.ChannelCredentials`, or a callable that returns some and is called for each member.
        options, compression, interceptors: as for grpc.aio.
        pool_options: see `PoolConfig`.

    Raises:
        ConfigError: an option is unknown or not allowed; it is named.
    """
    if credentials is None:
        raise ConfigTypeError("credentials", "None", "grpc.ChannelCredentials; insecure_channel() is for plaintext")
    return _channel(target, credentials, options, compression, interceptors, pool_options)


def _channel(
    target: Any,
    credentials: Any,
    options: Any,
    compression: grpc.Compression | None,
    interceptors: Sequence[Any] | None,
    pool_options: Any,
) -> ChannelPool:
    if building():
        # Called in the place of grpc's own factory, to make a member: see `build_channel`.
        return cast("ChannelPool", plain_channel())
    fields = {
        "target": target,
        "credentials": credentials,
        "options": options,
        "compression": compression,
        "interceptors": interceptors,
    }
    return ChannelPool(PoolConfig.of(fields, pool_options))
