"""A gRPC server in the test's own process that can be told to go wrong in every way that servers do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Literal

from . import faults as kinds
from .background import HOST, Listener, LoopThread, Port, news
from .faults import Fault, Faults, Rule
from .state import Answer, ConnectionSeen, Reply, Request, State

try:
    from .connection import UNLIMITED, Connection
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] not in ("h2", "hpack", "hyperframe"):
        raise
    raise ImportError("FaultServer needs h2: pip install 'grpcpool[testing]'") from error

if TYPE_CHECKING:
    from types import TracebackType

    import grpc
    from typing_extensions import Self

__all__ = ["FaultServer"]

# Of grpc.StatusCode.
UNAVAILABLE = 14
TIMEOUT = 10.0


class FaultServer:
    """A gRPC server (HTTP/2, plaintext) in a thread of this process, which can be told to go wrong.

        with FaultServer() as server, grpc.insecure_channel(server.target) as channel:
            server.fail(grpc.StatusCode.UNAVAILABLE, times=2)

    Every method of every service echoes each message that comes, until `answer` says otherwise; a method of the kind
    server stream under `ECHO` sends it three times, one of the kind client stream all messages joined, as
    `ServerProcess` does. The health service (`Check` and `Watch`) says SERVING for every name. Messages are bytes, and
    not compressed.

    A fault is in force when the method that sets it returns, for calls that come from then on, and until `heal`, or
    until one of its kind that is for all calls replaces it. Faults of different kinds add up: a call is refused, or
    else it takes its time (`slow`), hangs, and ends in one of garbage, corruption, failure, and an answer. Of several
    of one kind that could be for a call, the latest is. Faults are for calls of the health service too. `start`, `kill`
    and `stop` leave faults and counts as they are.

    Faults of calls can be restricted:

    - ``methods``: to these (full names, such as ``"/package.Service/Method"``), or this one;
    - ``fraction``: to so many of them (0 to 1), chosen at random;
    - ``times``: to that many, after which they are over.

    Thread-safe. What blocks says so; everything else takes as long as the server's thread takes to turn round, and may
    also be called by the server's own answers. It does not survive a fork: programs that fork need a `ServerProcess`.
    Needs the extra ``testing``.

    Arguments:
        port: TCP port of 127.0.0.1; 0: any that is free. On Linux nobody else can take it while the server is down.
        seed: for everything that happens at random.

    Raises:
        ImportError: the library h2 is not installed.
        OSError: the port is taken.

    Attributes:
        port: see above.
        target: what a client connects to.
    """

    def __init__(self, port: int = 0, *, seed: int = 0) -> None:
        self._port = Port(port)
        self._state = State(Faults(random.Random(seed)))
        self._thread: LoopThread | None = None
        self._listener: Listener | None = None
        self.port = self._port.number
        self.target = f"{HOST}:{self.port}"

    def __repr__(self) -> str:
        state = self._state
        return (
            f"<FaultServer {self.target} {'up' if state.accepting else 'down'}: {len(state.connections)} connections, "
            f"{state.calls} calls, {state.refused} refused, {state.in_flight} in flight>"
        )

    # --- coming and going

    def start(self) -> Self:
        """Accept connections: the first time, and after `kill` and `stop` on the same port.

        Raises:
            RuntimeError: it does already, or is closed.
            OSError: somebody else has the port by now.
        """
        if self._state.accepting:
            raise RuntimeError("the server is running already")
        if self._thread is None:
            self._thread = LoopThread(f"FaultServer {self.port}")
        self._thread.run(self._listen)
        return self

    def _listen(self) -> None:
        self._listener = Listener(self._port.listener(), lambda: Connection(self._state))
        self._state.accepting = True
        news.tell()

    def kill(self) -> None:
        """Go down as a process does that is killed: every connection is reset, new ones are refused."""
        self._run(self._die)

    def stop(self, grace: float = 5.0) -> None:
        """Go down gracefully: accept no connection, say GOAWAY, let running calls end; blocks for that long.

        Arguments:
            grace: seconds after which the connections that are left are reset.
        """
        if self._thread is not None:
            self._thread.finish(self._leave(grace))

    async def _leave(self, grace: float) -> None:
        self._stop_listening()
        leaving = list(self._state.connections)
        for connection in leaving:
            connection.drain()
        if leaving:
            await asyncio.wait([connection.closed for connection in leaving], timeout=grace)
        self._die()

    def _stop_listening(self) -> None:
        self._state.accepting = False
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        news.tell()

    def _die(self) -> None:
        self._stop_listening()
        self._reset_all()

    def _reset_all(self) -> None:
        for connection in list(self._state.connections):
            connection.reset()

    def close(self) -> None:
        """`kill` it for good, end its thread, and give the port up. What it has seen remains."""
        self._port.release()
        if self._thread is not None:
            self.kill()
            self._thread.close()
            self._thread = None

    def __enter__(self) -> Self:
        return self if self._state.accepting else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, function: Callable[[], None]) -> None:
        if self._thread is None:
            function()
        else:
            self._thread.run(function)

    # --- what it answers

    def answer(self, method: str, reply: Reply, *, whole: bool = False) -> None:
        """Say what a method answers.

        Arguments:
            method: its full name, such as ``"/package.Service/Method"``.
            reply: what is sent for each message that comes: bytes, or a callable that is given the message and returns
                bytes, or an iterable of bytes, which is a stream's. It runs in the server's thread and must not block.
                It may raise `Failure`, to end the call with that status; whatever else it raises ends it with UNKNOWN.
            whole: answer once, when the client has sent everything, and to all its messages joined: for client streams.
        """
        self._run(lambda: self._state.answers.update({method: Answer(reply, whole)}))

    def serving(self, yes: bool = True) -> None:
        """Say what the health service says: SERVING or NOT_SERVING. Those who watch are told at once."""

        def change() -> None:
            state = self._state
            state.serving = yes
            changed, state.health_changed = state.health_changed, asyncio.Event()
            changed.set()

        self._run(change)

    # --- faults of calls

    def slow(
        self,
        seconds: float | Callable[[], float],
        *,
        methods: Collection[str] = (),
        fraction: float = 1.0,
        times: int | None = None,
    ) -> None:
        """Let calls take longer by so many seconds, or by what a callable says for each."""
        self._add(kinds.Slow(Rule(methods, fraction, times), seconds))

    def hang(self, *, methods: Collection[str] = (), fraction: float = 1.0, times: int | None = None) -> None:
        """Accept calls, and answer them when the fault is over."""
        self._add(kinds.Hang(Rule(methods, fraction, times)))

    def fail(
        self,
        code: grpc.StatusCode | int,
        details: str = "",
        *,
        after: float = 0.0,
        trailers: Mapping[str, str] | None = None,
        methods: Collection[str] = (),
        fraction: float = 1.0,
        times: int | None = None,
    ) -> None:
        """End calls with a status before reading or sending a message.

        Arguments:
            details: the text beside it.
            after: seconds until then.
            trailers: metadata to end with.
        """
        sent = tuple((trailers or {}).items())
        self._add(kinds.Fail(Rule(methods, fraction, times), kinds.number_of(code), details, after, sent))

    def pushback(
        self,
        ms: int,
        code: grpc.StatusCode | int = UNAVAILABLE,
        *,
        methods: Collection[str] = (),
        fraction: float = 1.0,
        times: int | None = None,
    ) -> None:
        """Fail, and say when to come again (``grpc-retry-pushback-ms``): in `ms` milliseconds; below 0: not at all."""
        trailers = {"grpc-retry-pushback-ms": str(ms)}
        self.fail(code, "pushed back", trailers=trailers, methods=methods, fraction=fraction, times=times)

    def refuse_streams(self, *, methods: Collection[str] = (), fraction: float = 1.0, times: int | None = None) -> None:
        """Refuse calls without looking at them (RST_STREAM with REFUSED_STREAM).

        grpc sends a call that was refused for the first time again by itself, so that most calls meet this twice.
        """
        self._add(kinds.Refuse(Rule(methods, fraction, times)))

    def corrupt(
        self,
        what: Literal["message", "truncated", "connection", "handshake"] = "message",
        *,
        methods: Collection[str] = (),
        fraction: float = 1.0,
        times: int | None = None,
    ) -> None:
        """Answer nonsense.

        Arguments:
            what: ``"message"``: calls get a message that cannot be read; ``"truncated"``: one that ends too early, and
                OK after it; ``"connection"``: what comes in place of an answer is not HTTP/2, and the connection ends;
                ``"handshake"``: new connections get that, as from a port with something else behind.

        Raises:
            ValueError: ``"handshake"`` with `methods`, which a connection has none of; or `what` is none of these.
        """
        if what not in ("message", "truncated", "connection", "handshake"):
            raise ValueError(f"what: {what!r}")
        if what == "handshake" and methods:
            raise ValueError("methods: a handshake is none of theirs")
        rule = Rule(methods, fraction, times)
        self._add(kinds.Misgreet(rule) if what == "handshake" else kinds.Corrupt(rule, what))

    def random_bytes(
        self, seed: int = 0, *, methods: Collection[str] = (), fraction: float = 1.0, times: int | None = None
    ) -> None:
        """Answer calls, and one of ten new connections, with random bytes, frames, headers and messages.

        Such a call may never end by itself: give it a deadline. A GOAWAY with an error code of 13 or more is never
        among them: it would end the process of a client that uses grpcio 1.85.
        """
        self._add(kinds.Garbage(Rule(methods, fraction, times), random.Random(seed)))

    def _add(self, fault: Fault) -> None:
        self._run(lambda: self._state.faults.add(fault))

    # --- faults of connections

    def goaway(self, graceful: bool = True) -> None:
        """Send the clients away (GOAWAY) from the connections that are open; they may connect again.

        Arguments:
            graceful: running calls end as usual, and so do those that are under way, as when a server ages its
                connections out. False: each connection waits for the next call on it and sends a GOAWAY that does not
                cover it, so that this call is not looked at; others end as usual.
        """
        self._each(lambda connection: connection.drain() if graceful else connection.refuse_next())

    def reset(self) -> None:
        """Reset every connection (RST); new ones are accepted."""
        self._run(self._reset_all)

    def black_hole(self) -> None:
        """Keep connections open, and accept new ones, but read nothing and send nothing.

        Looks as if packets vanished, or the process stood still. After `heal` everything goes on where it was.
        """
        self._state.black_hole = True
        self._each(lambda connection: connection.mute())

    def limit_streams(self, limit: int, *, advertise: bool = True) -> None:
        """Refuse calls beyond so many at once on a connection.

        Arguments:
            limit: 1 or more.
            advertise: announce it (SETTINGS_MAX_CONCURRENT_STREAMS), so that clients can keep to it.
        """

        def change(connection: Connection) -> None:
            if advertise:
                connection.advertise(limit)

        self._state.limit, self._state.advertised = limit, advertise
        self._each(change)

    def heal(self) -> None:
        """Undo every fault, of calls and of connections: calls that hang are answered, the health service says SERVING.

        Does not start a server that is down.
        """

        def change(connection: Connection) -> None:
            connection.refuse_next(wanted=False)
            connection.unmute()
            if limited:
                connection.advertise(UNLIMITED)

        state = self._state
        limited = state.limit is not None
        state.black_hole, state.limit = False, None
        self._run(state.faults.clear)
        self.serving()
        self._each(change)

    def _each(self, change: Callable[[Connection], None]) -> None:
        def run() -> None:
            for connection in list(self._state.connections):
                change(connection)

        self._run(run)

    # --- what it has seen

    @property
    def running(self) -> bool:
        """It accepts connections."""
        return self._state.accepting

    @property
    def calls(self) -> int:
        """How many calls reached it; health checks, and streams that were refused, are not counted."""
        return self._state.calls

    @property
    def refused(self) -> int:
        """How many streams were refused, without looking at them."""
        return self._state.refused

    @property
    def in_flight(self) -> int:
        """How many calls are running, of the health service too."""
        return self._state.in_flight

    @property
    def counts(self) -> dict[str, int]:
        """How many calls reached it, by method, those of the health service too."""
        return dict(self._state.counts)

    @property
    def requests(self) -> list[Request]:
        """The latest 10,000 calls that reached it, oldest first, those of the health service too."""
        return list(self._state.requests)

    @property
    def accepted(self) -> int:
        """How many connections were ever accepted."""
        return self._state.accepted

    @property
    def connections(self) -> tuple[ConnectionSeen, ...]:
        """The connections that are open."""

        def look() -> None:
            found.extend(ConnectionSeen(each.port, each.calls, each.in_flight) for each in self._state.connections)

        found: list[ConnectionSeen] = []
        self._run(look)
        return tuple(sorted(found))

    def wait_for(self, condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
        """Block until a condition holds; it is looked at whenever something happens at a `FaultServer` or `Proxy`.

        Arguments:
            condition: such as ``lambda: server.calls >= 3``.
            timeout: seconds.

        Raises:
            TimeoutError: it did not hold in time.
        """
        news.wait_for(condition, timeout, lambda: repr(self))
