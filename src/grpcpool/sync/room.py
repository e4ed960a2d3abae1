"""The sync room: does for the engine what needs grpc and threads."""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NoReturn, cast

import grpc

from .. import forks, retry
from ..assembly import assemble
from ..config import PoolConfig
from ..connectivity import IDLE, connectivity_of
from ..core.connectivity import Connectivity
from ..core.engine import Engine
from ..core.lookout import Lookout
from ..core.member import Member
from ..core.messages import Explained, Input, Open, Pinged, Primed, Served, Wanted
from ..core.pinned import Pinned
from ..errors import NotConnected, PoolClosed, PoolError
from ..failover import Failover
from ..inflight import InFlight
from ..telemetry.logging import complain
from ..unclosed import warn_if_unclosed
from .affinity import KeyedChannel
from .channel import CountedChannel
from .closer import Closer
from .connect import ask, build_channel, watch
from .errors import RpcNotConnected
from .health import Watcher
from .line import Line
from .monitor import SLOW, Monitor
from .parking import Pause
from .subscribers import Subscribers

__all__ = ["CLOSE_TIMEOUT", "EXPLAIN_TIMEOUT", "SyncRoom"]

# How long an RPC may take that only asks why a channel does not connect. The channel has failed already, so it is
# refused at once; only if the channel tries again at that moment does the question wait, and an answer that comes
# later than this is of no use to anybody.
EXPLAIN_TIMEOUT = 1.0
# How long `close` waits for its thread and for effects that another thread is just carrying out. Both are a matter of
# milliseconds; the limit is there because a listener may be stuck in them, and closing must not hang.
CLOSE_TIMEOUT = 5.0


class SyncRoom(forks.Forkable):
    """Everything live about one sync pool. What the engine calls is described in `core.room.Room`.

    Attributes:
        front: the channel through which the pool's RPCs go.
        subscribers: callbacks on the connectivity of the whole pool.
    """

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        self._interceptors = cast("tuple[Any, ...]", config.interceptors)
        self._rung = 0.0
        self._begin()
        self.subscribers = Subscribers()
        self.engine = assemble(config, self)
        self._lookout = Lookout(self.engine, time.monotonic, idle=IDLE, translate=connectivity_of)
        self._line = Line(self.engine, config.acquire_timeout, retry.hedges(config))
        self._failover = Failover(self.engine, config, self._lookout.is_connected)
        # For the channels of single members: whoever asked for one is not given another.
        self._no_failover = Failover(self.engine, None, self._lookout.is_connected)
        self.front = self._counted(self.engine)
        self._pause: Pause | None = None
        forks.enroll(self)

    def _begin(self) -> None:
        self._watchers: dict[Member, Watcher] = {}
        self._changed = threading.Condition()
        self._start = threading.RLock()
        self._started = False
        # Set in the thread that carries out effects: waiting there for an effect would be waiting for oneself.
        self._performing = threading.local()
        # Those that somebody waits for an answer to.
        self._tickets: set[Future[int | None]] = set()
        label = self._config.label
        self._closer = Closer(lambda error: complain(label, "a channel cannot be closed", error), label)
        self._monitor = Monitor(self, SyncRoom._look, SyncRoom._monitor_failed, self._config.label)

    def __del__(self) -> None:
        warn_if_unclosed(getattr(self, "engine", None), self._config.label)

    def _counted(self, source: Engine | Pinned) -> CountedChannel:
        # Interceptors go around the pick, not around each member: one that tries again is then given another member.
        failover = self._no_failover if isinstance(source, Pinned) else self._failover
        common = (source, self._line, self.engine.norms, self._suspect, failover, self)
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

    def ask(self, question: Callable[[Future[int | None]], Input]) -> int:
        """Hand the engine a message with a ticket, and return or raise what it answers."""
        if self._is_performing():
            raise PoolError(
                f"pool {self._config.label!r} was asked to do something by a listener or factory that it is just "
                "calling; it would wait for itself for ever, so do that from another thread"
            )
        while True:
            ticket: Future[int | None] = Future()
            tickets = self._tickets
            tickets.add(ticket)
            try:
                self.tell(question(ticket))
                self._monitor.ring()
                answer = ticket.result()
            finally:
                tickets.discard(ticket)
            if answer is not None:
                return answer
            # A listener has forked in the middle of this, and this is the child, whose pool has not been asked yet.

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
        """Wait until the threads have ended, unless this is one of them."""
        if not self._is_performing():
            self._monitor.join(CLOSE_TIMEOUT)
            self._closer.join(CLOSE_TIMEOUT)

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

    # --- around a fork

    def pause(self) -> None:
        """Let no RPC begin."""
        self._pause = Pause(self.engine, self._lookout, self._config.label)
        self._pause.begin()

    def settle(self, deadline: float) -> None:
        """Wait until no thread is inside grpc for this pool, but not longer than until `deadline`."""
        if self._pause is not None:
            # Not for what this thread itself is in the middle of.
            self._pause.settle(deadline, decisions=not self._is_performing())
            self._closer.hold(deadline)

    def resume(self) -> None:
        """Let things go on, in the parent."""
        if self._pause is not None:
            self._pause.end()
            self._closer.release()
            self._pause = None

    def catch_up(self) -> None:
        """Do what has come in meanwhile."""
        # Here, for the pool's own thread may have ended.
        self.pump()
        if self._started:
            self._monitor.ring()

    def restart(self) -> None:
        """Begin anew, in the child."""
        members = list(self.engine.machine.slots)
        channels = [*(member.channel for member in members), *self._closer.left()]
        if channels:
            calls = [token() for member in members for token in member.leases if isinstance(token, InFlight)]
            forks.preserve(channels, calls, self._pause, self._watchers)
        for watcher in self._watchers.values():
            watcher.abandon()
        self._pause = None
        tickets = self._tickets
        self._monitor.abandon()
        self._begin()
        self.subscribers.restart()
        self._line.renew()
        self._lookout.reset()
        self.engine.reset(random.Random(self._config.seed))
        for ticket in tickets:
            if not ticket.done():
                ticket.set_result(None)

    # --- for the engine

    def build(self, member: Member) -> None:
        engine = self.engine
        machine = engine.machine
        channel = build_channel(self._config, member)
        if machine is not engine.machine:
            # What gives the credentials has forked, and in the child nobody has asked for this.
            return
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

    def ping(self, member: Member, timeout: float | None = None) -> None:
        started = time.monotonic()

        def answer(error: str | None) -> None:
            self.engine.post(Pinged(member, time.monotonic() - started, error))
            self._monitor.ring()

        ask(member.channel, self._config.ping_timeout if timeout is None else timeout, answer)

    def watch(self, member: Member) -> None:
        # On each connection anew. What has been heard may be of another server; and what was asked while there was no
        # connection may have been answered before it was known that there is one.
        watcher = self._watchers.pop(member, None)
        if watcher is not None:
            watcher.stop()
        assert self._config.health_check is not None
        owner, number = weakref.ref(self), member.id

        def tell(serving: bool, detail: str) -> bool:
            room = owner()
            if room is not None:
                room.served(number, serving, detail)
            return room is not None

        self._watchers[member] = Watcher(member.channel, self._config.health_check, tell, f"grpcpool-health-{number}")

    def served(self, number: int, serving: bool, detail: str) -> None:
        """Tell the engine what the server of the member with that id says."""
        member = self._member(number)
        if member is not None:
            self.engine.post(Served(member, serving, detail))
            self._monitor.ring()

    def _member(self, number: int) -> Member | None:
        return next((member for member in list(self.engine.machine.slots) if member.id == number), None)

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
        member = self._member(number)
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
        watcher = self._watchers.pop(member, None)
        if watcher is not None:
            watcher.stop()
        with self._line.building:
            # Nothing is built on it any more.
            member.closed = True
        self._closer.close(member.channel)
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
        # answer UNAVAILABLE to every call, and that must not keep the monitor running; nor must a channel that is known
        # to be down.
        now = time.monotonic()
        if now - self._rung > SLOW and self._lookout.is_connected(member):
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
