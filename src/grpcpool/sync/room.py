"""The sync room: does for the engine what needs grpc and threads."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NoReturn, cast

import grpc

from ..assembly import assemble
from ..config import PoolConfig
from ..connectivity import IDLE, connectivity_of
from ..core.connectivity import Connectivity
from ..core.engine import Engine
from ..core.lookout import Lookout
from ..core.member import Member
from ..core.messages import Explained, Input, Open, Pinged, Primed, Wanted
from ..core.pinned import Pinned
from ..errors import NotConnected, PoolClosed, PoolError
from ..telemetry.logging import complain
from .affinity import KeyedChannel
from .channel import CountedChannel
from .connect import ask, build_channel, watch
from .errors import RpcNotConnected
from .line import Line
from .monitor import SLOW, Monitor
from .subscribers import Subscribers

__all__ = ["CLOSE_TIMEOUT", "EXPLAIN_TIMEOUT", "SyncRoom"]

# How long an RPC may take that only asks why a channel does not connect. The channel has failed already, so it is
# refused at once; only if the channel tries again at that moment does the question wait, and an answer that comes
# later than this is of no use to anybody.
EXPLAIN_TIMEOUT = 1.0
# How long `close` waits for its thread and for effects that another thread is just carrying out. Both are a matter of
# milliseconds; the limit is there because a listener may be stuck in them, and closing must not hang.
CLOSE_TIMEOUT = 5.0


class SyncRoom:
    """Everything live about one sync pool. What the engine calls is described in `core.room.Room`.

    Attributes:
        front: the channel through which the pool's RPCs go.
        subscribers: callbacks on the connectivity of the whole pool.
    """

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        self._interceptors = cast("tuple[Any, ...]", config.interceptors)
        self._changed = threading.Condition()
        self._start = threading.RLock()
        self._started = False
        # Set in the thread that carries out effects: waiting there for an effect would be waiting for oneself.
        self._performing = threading.local()
        self._rung = 0.0
        self._monitor = Monitor(self, SyncRoom._look, SyncRoom._monitor_failed, config.label)
        self.subscribers = Subscribers()
        self.engine = assemble(config, self)
        self._lookout = Lookout(self.engine, time.monotonic, idle=IDLE, translate=connectivity_of)
        self._line = Line(self.engine, config.acquire_timeout)
        self.front = self._counted(self.engine)

    def _counted(self, source: Engine | Pinned) -> CountedChannel:
        # Interceptors go around the pick, not around each member: one that tries again is then given another member.
        common = (source, self._line, self.engine.norms, self._suspect, self)
        header = self._config.affinity_header
        counted = CountedChannel(*common) if header is None else KeyedChannel(header, *common)
        if not self._interceptors:
            return counted
        # Not one by type, but it takes and gives the same.
        return cast("CountedChannel", grpc.intercept_channel(counted, *self._interceptors))

    # --- for the pool

    def open(self) -> None:
        """Open the engine, if it is not, and return when its members have channels."""
        engine = self.engine
        if engine.machine.opened is not None and self._is_performing():
            return
        with self._start:
            if not self._started and not engine.machine.closed:
                self._monitor.start()
                self._started = True
        self.ask(Open)

    def ask(self, question: Callable[[Future[int]], Input]) -> int:
        """Hand the engine a message with a ticket, and return or raise what it answers."""
        if self._is_performing():
            raise PoolError(
                f"pool {self._config.label!r} was asked to do something by a listener or factory that it is just "
                "calling; it would wait for itself for ever, so do that from another thread"
            )
        ticket: Future[int] = Future()
        self.tell(question(ticket))
        self._monitor.ring()
        return ticket.result()

    def tell(self, message: Input) -> None:
        """Hand the engine a message, and work with it."""
        self.engine.post(message)
        self.pump()

    def pump(self) -> None:
        """Work with the engine on what it has been told."""
        before = self._is_performing()
        self._performing.now = True
        try:
            self.engine.pump()
        finally:
            self._performing.now = before
            if self.engine.machine.closed:
                # `close` waits for the last member to go, which is told only of those that have a channel to close.
                self.published()

    def _is_performing(self) -> bool:
        return getattr(self._performing, "now", False)

    def wait_for(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `condition` holds; False if it took longer than `timeout` seconds. At once from within effects."""
        if self._is_performing():
            return condition()
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def halt(self) -> None:
        """Let the thread end."""
        self._monitor.stop()

    def join(self) -> None:
        """Wait until the thread has ended, unless this is it."""
        if not self._is_performing():
            self._monitor.join(CLOSE_TIMEOUT)

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        """Tell `callback` the pool's connectivity now and whenever it changes."""
        if self.engine.machine.closed:
            self.refuse()
        self.subscribers.add(callback)
        if try_to_connect:
            self.open()

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Tell `callback` no more."""
        self.subscribers.remove(callback)

    # --- for the engine

    def build(self, member: Member) -> None:
        channel = build_channel(self._config, member.endpoint)
        member.channel = channel
        member.bound = self._counted(Pinned(self.engine, member))
        self._lookout.add(member, watch(channel))

    def connect(self, member: Member) -> None:
        self._lookout.connect(member)

    def explain(self, member: Member) -> None:
        def answer(error: str | None) -> None:
            self.engine.post(Explained(member, error))
            self._monitor.ring()

        ask(member.channel, EXPLAIN_TIMEOUT, answer)

    def ping(self, member: Member) -> None:
        started = time.monotonic()

        def answer(error: str | None) -> None:
            self.engine.post(Pinged(member, time.monotonic() - started, error))
            self._monitor.ring()

        ask(member.channel, self._config.ping_timeout, answer)

    def prime(self, member: Member) -> None:
        channel = grpc.intercept_channel(member.channel, *self._interceptors)
        # A thread of its own, for it may block, and may never return; nobody waits for it at exit. So it must not keep
        # alive a pool that nobody closes, by way of the member either.
        threading.Thread(
            target=_run_primer,
            args=(weakref.ref(self), self._config.primer, channel, member.id),
            name=f"grpcpool-primer-{member.id}",
            daemon=True,
        ).start()

    def primer_ended(self, number: int, problem: Exception | None) -> None:
        """Tell the engine how the primer of the member with that id went."""
        member = next((member for member in list(self.engine.machine.slots) if member.id == number), None)
        if member is None:
            # Its channel was closed under it, and what it says to that is no news.
            return
        error = None
        if problem is not None:
            error = f"the primer raised {type(problem).__name__}"
            self.complain("the primer raised; the member is not picked before it returns", problem)
        self.engine.post(Primed(member, error))
        self._monitor.ring()

    def close_channel(self, member: Member) -> None:
        self._lookout.remove(member)
        member.channel.close()
        self.published()

    def published(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def report(self, state: Connectivity) -> None:
        self.subscribers.tell(state)

    def wake(self) -> None:
        self._monitor.ring()

    def is_here(self) -> bool:
        # A lease is taken and a thread is woken anywhere.
        return True

    def on_first_use(self) -> None:
        self.open()

    def want(self) -> None:
        self.tell(Wanted())
        self._monitor.ring()

    def not_connected(self) -> NoReturn:
        raise NotConnected(f"no member is connected: {self.engine.describe()}; wait_ready() waits for one")

    def no_channel(self) -> NoReturn:
        raise RpcNotConnected(f"no member has a channel: {self.engine.describe()}")

    def refuse(self) -> NoReturn:
        raise PoolClosed(f"pool {self._config.label!r} is closed; make a new one")

    def complain(self, text: str, error: BaseException) -> None:
        complain(self._config.label, text, error)

    # --- watching

    def _look(self) -> tuple[bool, float | None]:
        """See what has become of every connection, and act on it. In the monitor's thread."""
        self._monitor.watch_over(len(self._lookout), self._lookout.in_use())
        seen = self._lookout.look()
        self.engine.measure()
        self.pump()
        return seen

    def _suspect(self, member: Member) -> None:
        """An RPC came back UNAVAILABLE: look at its connection at once, in the thread that saw it."""
        if self._lookout.glance(member):
            self.pump()
            return
        # An RPC may hear of the end of its connection a moment before the channel says so. But a server may also
        # answer UNAVAILABLE to every call, and that must not keep the monitor running.
        now = time.monotonic()
        if now - self._rung > SLOW:
            self._rung = now
            self._monitor.ring()

    def _monitor_failed(self, error: BaseException) -> None:
        self.engine.maintenance_failed(error)


def _run_primer(room: weakref.ref[SyncRoom], primer: Any, channel: grpc.Channel, number: int) -> None:
    problem = None
    try:
        primer(channel)
    except Exception as error:
        problem = error
    owner = room()
    if owner is not None:
        owner.primer_ended(number, problem)
