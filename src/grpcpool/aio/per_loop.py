"""The pool for several event loops: one set of members for each."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

import grpc

from .. import checks, registry
from ..config import PoolConfig
from ..core.engine import Engine
from ..core.messages import Abort, Close
from .errors import AioPoolClosed, WrongLoop
from .interceptors import sort
from .pool import ChannelPool
from .room import AioRoom

if TYPE_CHECKING:
    from ..events import Listener

__all__ = ["PerLoopChannelPool"]


class PerLoopChannelPool(ChannelPool):
    """An `aio.ChannelPool` made with ``per_loop=True``: used on any number of event loops, also at the same time.

    On each loop it is a pool of its own: `size` members, its own numbers and states, opened by the first use there, and
    gone when the loop ends. Stubs made once work on all of them. `close` closes it everywhere, and waits for what runs
    on the loop that it is called on. Safe from the threads of its loops; what is asked where no loop runs is refused.
    """

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        self._front = _Front(self)
        # That which members on further loops are made from: with the listeners of the moment.
        self._recipe = config
        self._closed = False
        # grpc.aio holds every loop that it has been used on for as long as it is in use at all, so holding them weakly
        # here would be of no use; `_begin` sees to it that they go when they are closed.
        self._rooms: dict[asyncio.AbstractEventLoop, AioRoom] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._interceptors = sort(config.interceptors or ())
        # As in the base class.
        self._unary_unary_interceptors = self._interceptors["unary_unary"]
        self._unary_stream_interceptors = self._interceptors["unary_stream"]
        self._stream_unary_interceptors = self._interceptors["stream_unary"]
        self._stream_stream_interceptors = self._interceptors["stream_stream"]
        # What cannot be built is refused now, and not on the first use.
        AioRoom(config, self._interceptors)
        if config.name is not None:
            registry.register(config.name, self)

    # --- its parts

    @property
    def _room(self) -> AioRoom:  # type: ignore[override]
        """The room of the loop that runs."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise WrongLoop(
                f"pool {self._config.label!r} has members for each event loop, and no loop runs here: use it from "
                "within a coroutine"
            ) from None
        return self._rooms.get(loop) or self._begin(loop)

    @property
    def _engine(self) -> Engine:  # type: ignore[override]
        return self._room.engine

    def _begin(self, loop: asyncio.AbstractEventLoop) -> AioRoom:
        for old, room in list(self._rooms.items()):
            # It was not given the time to close its members, see `_until_the_end`. The threads of other loops may be
            # about to say so as well.
            if old.is_closed() and self._rooms.pop(old, None) is room:
                room.leave()
        self._refuse_if_closed()
        room = self._rooms[loop] = AioRoom(self._recipe, self._interceptors)
        room.ending = _until_the_end(self._rooms, loop, room)
        # Up to its `yield`; from then on the loop knows of it.
        with contextlib.suppress(StopIteration):
            room.ending.asend(None).send(None)
        # Whoever closes the pool says so first, and then looks for rooms.
        if self._closed and self._rooms.pop(loop, None) is room:
            room.leave()
        self._refuse_if_closed()
        return room

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise AioPoolClosed(f"pool {self._config.label!r} is closed; make a new one")

    def _everywhere(self, do: Callable[[AioRoom], object]) -> None:
        """Call `do` with each room, on its loop: here and now, or there and soon."""
        here = asyncio._get_running_loop()
        for loop, room in list(self._rooms.items()):
            if loop is here:
                do(room)
            elif not loop.is_closed():
                # It may be closed just now.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(do, room)

    # --- where it differs

    async def close(self, grace: float | None = None) -> None:
        """Refuse new RPCs on every loop, and end: at once, or when the running ones have ended.

        Arguments:
            grace: as in `ChannelPool.close`. Other loops close their members by themselves.
        """
        checks.waiting("grace", grace, optional=True)
        self._closed = True
        if self._config.name is not None:
            registry.unregister(self._config.name, self)
        here = asyncio.get_running_loop()
        tasks: list[asyncio.Task[None]] = []

        def begin(room: AioRoom) -> None:
            task = asyncio.get_running_loop().create_task(close(room, grace))
            # A loop holds its tasks weakly.
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            if task.get_loop() is here:
                tasks.append(task)

        self._everywhere(begin)
        for task in tasks:
            await task

    def add_listener(self, listener: Listener) -> None:
        """Tell `listener` every event on every loop from now on, each from the loop's own thread."""
        checks.listener(listener)
        self._recipe = dataclasses.replace(self._recipe, listeners=(*self._listeners(), listener))
        self._everywhere(lambda room: room.engine.add_listener(listener))

    def remove_listener(self, listener: Listener) -> None:
        """Tell `listener` no more; harmless if it was not told."""
        left = list(self._listeners())
        if listener in left:
            left.remove(listener)
        self._recipe = dataclasses.replace(self._recipe, listeners=left)
        self._everywhere(lambda room: room.engine.remove_listener(listener))

    def _listeners(self) -> tuple[Any, ...]:
        listeners: Any = self._recipe.listeners
        return tuple(listeners)

    def __repr__(self) -> str:
        loops = sum(not loop.is_closed() for loop in list(self._rooms))
        closed = ", closed" if self._closed else ""
        return f"<grpcpool.aio.ChannelPool {self._config.label!r}: members for each loop, {loops} now{closed}>"


async def close(room: AioRoom, grace: float | None = None) -> None:
    """Close one room, on its loop."""
    room.tell(Close())
    try:
        if grace:
            await room.wait_for(lambda: not room.engine.machine.slots, grace)
    finally:
        room.tell(Abort())
        room.halt()
    await room.join()


async def _until_the_end(
    rooms: dict[asyncio.AbstractEventLoop, AioRoom], loop: asyncio.AbstractEventLoop, room: AioRoom
) -> AsyncGenerator[None, None]:
    """Close the room when the loop ends: before it closes, `asyncio.run` and others let its generators finish."""
    try:
        yield
    finally:
        if rooms.get(loop) is room:
            del rooms[loop]
        await close(room)


class _Front:
    """Where the pool's multicallables come from."""

    def __init__(self, pool: PerLoopChannelPool) -> None:
        self._pool = pool

    def unary_unary(self, *method: Any) -> _UnaryUnary:
        return _UnaryUnary(lambda: self._pool._room.front.unary_unary(*method))

    def unary_stream(self, *method: Any) -> _UnaryStream:
        return _UnaryStream(lambda: self._pool._room.front.unary_stream(*method))

    def stream_unary(self, *method: Any) -> _StreamUnary:
        return _StreamUnary(lambda: self._pool._room.front.stream_unary(*method))

    def stream_stream(self, *method: Any) -> _StreamStream:
        return _StreamStream(lambda: self._pool._room.front.stream_stream(*method))


class _Everywhere:
    """What is called on whichever loop runs.

    Arguments:
        find: returns the multicallable of that loop; it is remembered there.
    """

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Invoke the method, and return its call at once."""
        return self._find()(*arguments, **options)


class _UnaryUnary(_Everywhere, grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    pass


class _UnaryStream(_Everywhere, grpc.aio.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    pass


class _StreamUnary(_Everywhere, grpc.aio.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    pass


class _StreamStream(_Everywhere, grpc.aio.StreamStreamMultiCallable):  # type: ignore[type-arg]
    pass
