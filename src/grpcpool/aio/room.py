"""The aio room: does for the engine what needs grpc.aio and the loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, NoReturn, cast

import grpc

from .. import forks
from ..assembly import assemble
from ..config import PoolConfig
from ..connectivity import IDLE, connectivity_of
from ..core.connectivity import Connectivity
from ..core.engine import Engine
from ..core.lookout import Lookout
from ..core.member import Member
from ..core.messages import Explained, Input, Open, Pinged, Primed, Served, Wanted
from ..core.pinned import Pinned
from ..errors import NotConnected
from ..failover import Failover
from ..inflight import InFlight
from ..telemetry.logging import complain
from ..unclosed import warn_if_unclosed
from .affinity import KeyedChannel
from .channel import CountedChannel
from .connect import ask, build_channel, watch
from .errors import AioNotConnected, AioPoolClosed
from .health import Watcher
from .interceptors import for_members, share, sort
from .late import Late
from .line import Line
from .loops import another_loop, loop_to_be, lost
from .monitor import SLOW, Monitor

__all__ = ["CLOSE_TIMEOUT", "EXPLAIN_TIMEOUT", "AioRoom"]

# How long an RPC may take that only asks why a channel does not connect. The channel has failed already, so it is
# refused at once; only if the channel tries again at that moment does the question wait, and an answer that comes
# later than this is of no use to anybody.
EXPLAIN_TIMEOUT = 1.0
# How long `close` waits for channels to close and for tasks to end that it has cancelled. Both are a matter of
# milliseconds; the limit is there because a primer or an interceptor may not let itself be cancelled.
CLOSE_TIMEOUT = 5.0


class AioRoom(forks.Forkable):
    """Everything live about one aio pool. What the engine calls is described in `core.room.Room`.

    Attributes:
        front: the channel through which the pool's RPCs go.
        loop: the one that the pool belongs to; None before its first use.
        interceptors: those of each kind of RPC; members made later get what is in the lists then.
        ending: what is to be kept for as long as this lives, to hear of the end of the loop.

    Arguments:
        interceptors: lists to share; None: those of its own.
    """

    def __init__(self, config: PoolConfig, interceptors: dict[str, list[Any]] | None = None) -> None:
        self._config = config
        self._rung = 0.0
        self._begin()
        own = sort(cast("tuple[Any, ...]", config.interceptors))
        self.interceptors = own if interceptors is None else interceptors
        self.ending: AsyncGenerator[None, None] | None = None
        self.engine = assemble(config, self)
        self._lookout = Lookout(self.engine, time.monotonic, idle=IDLE, translate=connectivity_of)
        self._line = Line(self.engine, config.acquire_timeout, self.bind)
        self._failover = Failover(self.engine, config, self._lookout.is_connected)
        # For the channels of single members: whoever asked for one is not given another.
        self._no_failover = Failover(self.engine, None, self._lookout.is_connected)
        self.front = self._counted(self.engine)
        forks.enroll(self)

    def _begin(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._primers: dict[Member, asyncio.Task[Any]] = {}
        self._watchers: dict[Member, Watcher] = {}
        self._closing: set[asyncio.Task[Any]] = set()
        self._monitor = Monitor(self, AioRoom._look, AioRoom._monitor_failed)

    def __del__(self) -> None:
        warn_if_unclosed(getattr(self, "engine", None), self._config.label)

    def _counted(self, source: Engine | Pinned) -> CountedChannel:
        failover = self._no_failover if isinstance(source, Pinned) else self._failover
        common = (source, self._line, self.engine.norms, self._suspect, failover, self, self)
        header = self._config.affinity_header
        return CountedChannel(*common) if header is None else KeyedChannel(header, *common)

    # --- for the pool

    def bind(self) -> asyncio.AbstractEventLoop:
        """Return the pool's loop: the one that runs now, if it had none yet or one that has been closed since.

        Raises:
            WrongLoop: another one runs, or none runs and the pool has none yet.
        """
        loop = self.loop
        if loop is not None and loop.is_closed():
            self.leave()
            loop = None
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            # As with a channel of grpc's: a call may be made before its loop is run to await it.
            if loop is None:
                loop = loop_to_be(self._config.label)
                self.loop = loop
            return loop
        if loop is running:
            return running
        if loop is None:
            self.loop = running
            return running
        raise another_loop(self._config.label, loop, running)

    def open(self) -> None:
        """Open the engine, if it is not; its members have channels then."""
        loop = self.bind()
        if self.engine.machine.closed:
            self.refuse()
        if forks.has_lost_aio():
            raise lost(self._config.label)
        self._monitor.start(loop)
        self.tell(Open())
        self._monitor.ring()

    async def ask(self, question: Callable[[asyncio.Future[int]], Input]) -> int:
        """Hand the engine a message with a ticket, and return or raise what it answers."""
        ticket: asyncio.Future[int] = self.bind().create_future()
        self.tell(question(ticket))
        self._monitor.ring()
        return await ticket

    def tell(self, message: Input) -> None:
        """Hand the engine a message, and work with it."""
        self.engine.post(message)
        self.engine.pump()

    async def wait_for(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `condition` holds; False if it took longer than `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not condition():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            waiter: asyncio.Future[None] = self.bind().create_future()
            self._waiters.add(waiter)
            try:
                await asyncio.wait((waiter,), timeout=left)
            finally:
                self._waiters.discard(waiter)
        return True

    def halt(self) -> None:
        """Look no more, and ask no more."""
        self._monitor.stop()
        for task in self._tasks:
            task.cancel()

    async def join(self) -> None:
        """Wait until every channel is closed, and what was asked of them has ended."""
        pending = {*self._tasks, *self._closing}
        if pending:
            await asyncio.wait(pending, timeout=CLOSE_TIMEOUT)
        await self._line.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the pool's connectivity; open it if it is asked to connect."""
        if self.loop is not None and self.loop.is_closed():
            self.leave()
        # The state before it was asked, as grpc's own answer.
        state = grpc.ChannelConnectivity[self.engine.machine.state.name]
        if try_to_connect and not self.engine.machine.closed:
            self.open()
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the pool's connectivity differs from `last_observed_state`."""
        self.bind()
        machine = self.engine.machine
        last = Connectivity[last_observed_state.name]
        if machine.closed:
            # Nothing will ever change again.
            self.refuse()
        await self.wait_for(lambda: machine.state is not last, None)

    async def channel_ready(self) -> None:
        """Wait until the pool is READY."""
        self.open()
        machine = self.engine.machine
        await self.wait_for(lambda: machine.state is Connectivity.READY or machine.closed, None)
        if machine.closed:
            self.refuse()

    # --- around a fork, and from loop to loop

    def pause(self) -> None:
        """Let go of a loop that is closed; for if nobody uses grpc.aio any more, the child can."""
        if self.loop is not None and self.loop.is_closed():
            self.leave()

    def restart(self) -> None:
        """Begin anew, in the child. Nothing of the parent's loop is touched, not even to be cancelled or freed."""
        members = list(self.engine.machine.slots)
        if self.loop is not None:
            calls = [token() for member in members for token in member.leases if isinstance(token, InFlight)]
            forks.preserve(
                [member.channel for member in members],
                calls,
                self._line.lane,
                (self.loop, self._monitor, self._waiters, self._tasks, self._primers, self._closing, self._watchers),
            )
        self._begin_anew()

    def leave(self) -> None:
        """Let go of a loop that has been closed, and of the channels, which are of no use without it."""
        members = list(self.engine.machine.slots)
        self._begin_anew()
        self.front.forget()
        for member in members:
            if member.bound is not None:
                member.bound.forget()
            member.channel = member.bound = None

    def _begin_anew(self) -> None:
        self._begin()
        self._line.renew()
        self._lookout.reset()
        self.engine.reset(random.Random(self._config.seed))

    # --- for the engine

    def build(self, member: Member) -> None:
        channel = build_channel(self._config, member, for_members(self.interceptors))
        share(self.interceptors, channel)
        member.channel = channel
        member.bound = self._counted(Pinned(self.engine, member))
        self._lookout.add(member, watch(channel))

    def connect(self, member: Member) -> None:
        self._lookout.connect(member)

    def explain(self, member: Member) -> None:
        def answer(error: str | None, cancelled: bool) -> None:
            self.tell(Explained(member, "the attempt to find out was cancelled" if cancelled else error))

        self._spawn(lambda: ask(member.channel, EXPLAIN_TIMEOUT), answer)

    def ping(self, member: Member, timeout: float | None = None) -> None:
        started = time.monotonic()

        def answer(error: str | None, cancelled: bool) -> None:
            self.tell(Pinged(member, time.monotonic() - started, error))

        limit = self._config.ping_timeout if timeout is None else timeout
        self._spawn(lambda: ask(member.channel, limit), answer)

    def watch(self, member: Member) -> None:
        # On each connection anew. What has been heard may be of another server; and what was asked while there was no
        # connection may have been answered before it was known that there is one.
        watcher = self._watchers.pop(member, None)
        if watcher is not None:
            watcher.stop()
        assert self._config.health_check is not None
        # Not to keep alive a pool that nobody closes: neither itself, nor by way of the member.
        owner, number = weakref.ref(self), member.id

        def tell(serving: bool, detail: str) -> bool:
            room = owner()
            if room is not None:
                room.served(number, serving, detail)
            return room is not None

        text = f"asking the server of member {number} whether it serves failed"
        failed = functools.partial(complain, self._config.label, text)
        watcher = Watcher(member.channel, self._config.health_check, tell, failed, self.bind())
        self._watchers[member] = watcher
        self._keep(self._tasks, watcher.task)

    def served(self, number: int, serving: bool, detail: str) -> None:
        """Tell the engine what the server of the member with that id says."""
        member = next((member for member in self.engine.machine.slots if member.id == number), None)
        if member is not None:
            self.tell(Served(member, serving, detail))

    def prime(self, member: Member) -> None:
        async def run() -> str | None:
            try:
                await self._config.primer(member.channel)  # type: ignore[misc]
            except Exception as problem:
                self.complain("the primer raised; the member is not picked before it returns", problem)
                return f"the primer raised {type(problem).__name__}"
            return None

        def answer(error: str | None, cancelled: bool) -> None:
            self._primers.pop(member, None)
            self.tell(Primed(member, "the primer was cancelled" if cancelled else error))

        # When it has taken too long is for the engine to say, which then has the channel closed.
        self._primers[member] = self._spawn(run, answer)

    def close_channel(self, member: Member) -> None:
        self._lookout.remove(member)
        watcher = self._watchers.pop(member, None)
        if watcher is not None:
            watcher.stop()
        primer = self._primers.get(member)
        if primer is not None:
            primer.cancel()
        member.closed = True
        self._keep(self._closing, self.bind().create_task(Late(member.channel.close)))
        self.published()

    def published(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def report(self, state: Connectivity) -> None:
        self.published()

    def wake(self) -> None:
        loop = self.loop
        if loop is None:
            return
        # Perhaps from another thread, in which a garbage collection found the call; hence "threadsafe". On a loop that
        # is closed there is nothing left to do.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._woken)

    def _woken(self) -> None:
        self.engine.pump()
        self._monitor.ring()

    def is_here(self) -> bool:
        return asyncio._get_running_loop() is self.loop is not None

    def on_first_use(self) -> None:
        self.open()

    def want(self) -> None:
        self.tell(Wanted())
        self._monitor.ring()

    def not_connected(self) -> NoReturn:
        raise NotConnected(f"no member is connected: {self.engine.describe()}; wait_ready() waits for one")

    def no_channel(self) -> NoReturn:
        raise AioNotConnected(f"no member has a channel: {self.engine.describe()}")

    def refuse(self) -> NoReturn:
        raise AioPoolClosed(f"pool {self._config.label!r} is closed; make a new one")

    def complain(self, text: str, error: BaseException) -> None:
        complain(self._config.label, text, error)

    # --- watching

    def _look(self) -> tuple[bool, float | None]:
        """See what has become of every connection, and act on it."""
        self._monitor.watch_over(len(self._lookout), self._lookout.in_use())
        seen = self._lookout.look()
        self.engine.measure()
        self.engine.pump()
        return seen

    def _suspect(self, member: Member) -> None:
        """An RPC came back UNAVAILABLE: look at its connection at once."""
        if self._lookout.glance(member):
            self.engine.pump()
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

    def _spawn(
        self, question: Callable[[], Coroutine[Any, Any, str | None]], answer: Callable[[str | None, bool], None]
    ) -> asyncio.Task[Any]:
        """Run what `question` returns as a task; call `answer` with the result, and whether it was cancelled instead.

        By a callback of the task's, for a task that is cancelled before its first step runs nothing of its own.
        """
        task = self.bind().create_task(Late(question))
        # A loop that is stopped for good without closing the pool would complain of this task when it is collected.
        task._log_destroy_pending = False  # type: ignore[attr-defined]

        def done(task: asyncio.Task[str | None]) -> None:
            cancelled = task.cancelled()
            error = None if cancelled else task.exception()
            answer(type(error).__name__ if error else None if cancelled else task.result(), cancelled)

        task.add_done_callback(done)
        self._keep(self._tasks, task)
        return task

    def _keep(self, tasks: set[asyncio.Task[Any]], task: asyncio.Task[Any]) -> None:
        # A loop holds its tasks weakly; one that nobody else holds can vanish while it waits.
        tasks.add(task)
        task.add_done_callback(tasks.discard)
