"""What `FaultServer` and `Proxy` stand on: a loop in a thread, news for those who wait, a port that stays ours."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["HOST", "Listener", "LoopThread", "News", "Port", "news", "reset"]

T = TypeVar("T")

HOST = "127.0.0.1"
# Turns of a loop within which whatever is in the queue has led to what it leads to; three or four is what it takes.
TURNS = 10
# Close at once and send RST, not FIN: `struct linger` with l_onoff 1 and l_linger 0.
LINGER_NOT = struct.pack("ii", 1, 0)


class LoopThread:
    """An asyncio loop in a daemon thread of its own. Thread-safe."""

    def __init__(self, name: str) -> None:
        # Not what some policy prefers: the server and the proxy set options of the sockets under its transports.
        self.loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, function: Callable[[], T]) -> T:
        """Run a function on the loop, and return what it returns; blocks for that long, unless called on the loop."""
        if threading.current_thread() is self._thread:
            return function()

        async def wrapped() -> T:
            return function()

        return self.finish(wrapped())

    def finish(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and return what it returns; blocks for that long.

        Raises:
            RuntimeError: called on the loop itself, which cannot wait for itself.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("this blocks, and would wait for the very thread that it was called in")
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def close(self) -> None:
        """Cancel what runs, and end the thread."""

        async def settle() -> None:
            for _ in range(TURNS):
                await asyncio.sleep(0)

        async def cancel_all() -> None:
            # asyncio takes several turns to make a transport of a connection that has just been accepted.
            await settle()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            # What the end of a transport has still to do is in the queue by now.
            await settle()

        self.finish(cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class News:
    """Wakes those who wait for something to become true. Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting = 0
        # How many pieces of news there were while somebody waited.
        self._number = 0

    def tell(self) -> None:
        """Say that something has changed."""
        # Whoever waits says so before looking, so that either they see the change, or they are seen here.
        if self._waiting:
            with self._condition:
                self._number += 1
                self._condition.notify_all()

    def wait_for(self, condition: Callable[[], object], timeout: float, describe: Callable[[], str]) -> None:
        """Block until `condition` holds; it is looked at after each change.

        Arguments:
            timeout: seconds.
            describe: says how things stand, for the error.

        Raises:
            TimeoutError: it did not hold in time.
        """
        until = time.monotonic() + timeout
        with self._condition:
            self._waiting += 1
        try:
            while True:
                known = self._number
                # Without the lock: it may ask the thread of a server, which may be telling news at this moment.
                if condition():
                    return
                with self._condition:
                    while self._number == known:
                        if not self._condition.wait(until - time.monotonic()):
                            raise TimeoutError(f"not within {timeout:g} s; {describe()}")
        finally:
            with self._condition:
                self._waiting -= 1


# One for all, so that a condition may look at several servers.
news = News()


class Port:
    """A TCP port of this machine that stays ours while nobody listens on it.

    A socket that is bound, but does not listen, holds it: connecting is refused, and nobody else can be given the
    port, neither as a server nor as the near end of a connection. Only Linux lets another socket of ours listen
    beside it; elsewhere the port is merely remembered.
    """

    def __init__(self, number: int) -> None:
        self._holder: socket.socket | None = self._bound(number)
        self.number: int = self._holder.getsockname()[1]
        if not sys.platform.startswith("linux"):
            self.release()

    def listener(self) -> socket.socket:
        """Return a new socket that listens.

        Raises:
            OSError: somebody else has the port.
        """
        listener = self._bound(self.number)
        listener.listen(512)
        return listener

    def release(self) -> None:
        """Give the port up."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    @staticmethod
    def _bound(number: int) -> socket.socket:
        bound = socket.socket()
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((HOST, number))
        except BaseException:
            bound.close()
            raise
        bound.setblocking(False)
        return bound


class Listener:
    """Accepts TCP connections on the running loop, until it is closed; for that loop's thread alone.

    asyncio's own server will not do: in Python 3.10 and 3.11 it leaves open what it had accepted just before it was
    closed, and nobody hears of it.

    Arguments:
        listening: does not block. It is closed with this.
        factory: makes a protocol for each connection.
    """

    def __init__(self, listening: socket.socket, factory: Callable[[], asyncio.Protocol]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._factory = factory
        # A loop does not keep its tasks alive.
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Accept no more. Those that were accepted by now become connections nevertheless."""
        self._loop.remove_reader(self._listening)
        self._listening.close()

    def _accept(self) -> None:
        # Once more than there are connections: then it would block.
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            while True:
                accepted, _ = self._listening.accept()
                accepted.setblocking(False)
                task = self._loop.create_task(self._connect(accepted))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        await self._loop.connect_accepted_socket(self._factory, accepted)


def reset(transport: asyncio.Transport) -> None:
    """End a TCP connection by RST, at once; what was not sent yet is lost."""
    with contextlib.suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
    transport.abort()
