"""Whatever happens, in whatever order: the line under Hypothesis, with a clock of its own."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from grpcpool.core.admission import Waiter
from grpcpool.core.lease import NOBODY, Lease
from grpcpool.core.member import Member

from .front import Front, at_rest


class Line(RuleBasedStateMachine):
    """Rules are what RPCs and the pool may do. What must come of it is known from a plain queue beside the line."""

    @initialize(size=st.integers(0, 3), cap=st.integers(1, 3), most=st.integers(0, 6))
    def make(self, size: int, cap: int, most: int) -> None:
        self.front = Front(size=size, cap=cap, most=most)
        self.running: list[Lease] = []
        self.queue: deque[Waiter] = deque()
        self.seconds = 0.0
        self.waited = self.refused = self.seen = 0
        self.closed = False
        self.away: Member | None = None

    # --- what may happen

    @rule(seconds=st.sampled_from([0.5, 1.0, 8.0]))
    def pass_time(self, seconds: float) -> None:
        self.front.clock.now += seconds

    @rule()
    def come(self) -> None:
        lease = self.front.take()
        if lease is not None:
            assert not self.queue, "overtaken"
            self.running.append(lease)
            return
        waiter = Waiter(Lease(), lambda: self.front.woken.append(waiter))
        assert self.front.line.enter(waiter) == (len(self.queue) < self.front.line.most)
        if len(self.queue) < self.front.line.most:
            self.queue.append(waiter)
            self.waited += 1
        else:
            self.refused += 1

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.running:
            lease = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
            how = data.draw(st.sampled_from(["succeed", "fail", "release"]))
            assert getattr(lease, how)(self.front.clock())

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.queue:
            waiter = self.queue[data.draw(st.integers(0, len(self.queue) - 1))]
            assert self.front.line.leave(waiter)
            self.queue.remove(waiter)
            self.seconds += self.front.clock() - waiter.since

    @rule()
    def grow(self) -> None:
        if len(self.front.members) < 4:
            self.front.adopt(*self.front.members, self.front.member())

    @rule(data=st.data())
    def shrink(self, data: st.DataObject) -> None:
        if self.front.members:
            gone = data.draw(st.sampled_from(self.front.members))
            self.front.adopt(*(member for member in self.front.members if member is not gone))

    @precondition(lambda self: self.away is None)
    @rule(data=st.data())
    def go_down(self, data: st.DataObject) -> None:
        """A member loses its connection: it is picked no more for a while, but does not retire."""
        if self.front.members:
            away = data.draw(st.sampled_from(self.front.members))
            self.front.members = tuple(member for member in self.front.members if member is not away)
            self.front.line.adopt(self.front.members)
            self.away = away

    @precondition(lambda self: self.away is not None)
    @rule()
    def come_back(self) -> None:
        assert self.away is not None
        self.front.adopt(*self.front.members, self.away)
        self.away = None

    @rule()
    def serve(self) -> None:
        self.front.line.serve()

    @precondition(lambda self: len(self.front.woken) > 5)
    @rule()
    def close(self) -> None:
        self.closed = True
        self.front.line.close()

    # --- what must always hold

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "front"):
            return
        line = self.front.line
        for waiter in self.front.woken[self.seen :]:
            assert waiter is self.queue.popleft(), "not the one whose turn it was"
            self.seconds += self.front.clock() - waiter.since
            assert waiter.done
            if waiter.lease.member is NOBODY:
                assert self.closed
            else:
                assert not waiter.lease.member.retired
                assert waiter.lease.member in self.front.members
                self.running.append(waiter.lease)
        self.seen = len(self.front.woken)
        assert not (self.closed and self.queue)
        assert line.stats() == (len(self.queue), self.waited, self.seconds, self.refused, 0)
        assert all(lease in lease.member.leases for lease in self.running)
        on = self.front.members if self.away is None else (*self.front.members, self.away)
        assert sum(self.front.in_flight()) == sum(lease.member in self.front.members for lease in self.running)
        assert all(member.in_flight <= line.cap for member in on)
        at_rest(self.front)


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=120, stateful_step_count=50)
