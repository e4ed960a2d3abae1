"""RPCs in flight: when they are over, and what their end says about the member."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import grpc
import pytest

from grpcpool.core.lease import Lease
from grpcpool.core.member import Member
from grpcpool.core.norm import Norms
from grpcpool.inflight import InFlight
from grpcpool.outcome import code_of, settle

from .helpers import Diary, in_threads

OK = grpc.StatusCode.OK
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

# What a meter is told of an RPC that ended so, and whether the member's failures go up.
OUTCOMES: dict[grpc.StatusCode | None, tuple[str, int]] = {
    None: ("dropped", 0),
    OK: ("answered", 0),
    grpc.StatusCode.CANCELLED: ("dropped", 0),
    grpc.StatusCode.UNKNOWN: ("failed", 1),
    grpc.StatusCode.INVALID_ARGUMENT: ("answered", 1),
    grpc.StatusCode.DEADLINE_EXCEEDED: ("failed", 1),
    grpc.StatusCode.NOT_FOUND: ("answered", 1),
    grpc.StatusCode.ALREADY_EXISTS: ("answered", 1),
    grpc.StatusCode.PERMISSION_DENIED: ("answered", 1),
    grpc.StatusCode.UNAUTHENTICATED: ("answered", 1),
    grpc.StatusCode.RESOURCE_EXHAUSTED: ("failed", 1),
    grpc.StatusCode.FAILED_PRECONDITION: ("answered", 1),
    grpc.StatusCode.ABORTED: ("answered", 1),
    grpc.StatusCode.OUT_OF_RANGE: ("answered", 1),
    grpc.StatusCode.UNIMPLEMENTED: ("answered", 1),
    grpc.StatusCode.INTERNAL: ("failed", 1),
    UNAVAILABLE: ("failed", 1),
    grpc.StatusCode.DATA_LOSS: ("answered", 1),
}
every_outcome = pytest.mark.parametrize("code", OUTCOMES, ids=lambda code: code.name if code else "none")


class Call:
    """A call that has ended, or will have when it is asked.

    Attributes:
        status: what it ended with.
    """

    def __init__(self, status: grpc.StatusCode | None = OK) -> None:
        self.status = status


class Method:
    """What the calls of one method share."""

    def __init__(self, timed: bool = True) -> None:
        self.timed = timed
        self.norms = Norms()
        self.norm = self.norms.of("/a")
        self.suspects: list[Member] = []
        self.suspect = self.suspects.append

    def code_of(self, call: Any) -> grpc.StatusCode | None:
        return call.status  # type: ignore[no-any-return]


class Line:
    """A member with a diary, and RPCs that are started on it."""

    def __init__(self, timed: bool = True) -> None:
        self.method = Method(timed)
        self.member = Member(0, "a")
        self.member.observer = self.diary = Diary()

    def start(self, call: Any) -> InFlight:
        flight = InFlight(call, InFlight.abandoned)
        flight.member, flight.method, flight.started = self.member, self.method, 0.0
        self.member.begin(0.0, self.method.timed, flight)
        return flight

    def ends(self) -> list[str]:
        return [kind for kind in self.diary.kinds() if kind != "started"]


@pytest.fixture(params=[True, False], ids=["unary", "stream"])
def line(request: pytest.FixtureRequest) -> Line:
    return Line(request.param)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every RPC end at 2.5 s."""
    monkeypatch.setattr("grpcpool.inflight.monotonic", lambda: 2.5)


def test_it_is_timed_as_the_lease_is_that_it_takes_the_place_of(line: Line) -> None:
    # By this, members are told apart that keep a caller waiting.
    call = Call()
    lease = Lease.on(line.member, 0.0, line.method.timed)
    lease.hand_over(line.start(call))
    (token,) = line.member.leases
    assert token.timed == lease.timed == line.method.timed  # type: ignore[attr-defined]


# --- what a status says


def test_every_status_that_there_is_is_spoken_for() -> None:
    assert set(OUTCOMES) == {None, *grpc.StatusCode}


@every_outcome
def test_a_status_is_the_members_fault_or_the_applications_answer_or_the_callers_doing(
    code: grpc.StatusCode | None,
) -> None:
    word, failures = OUTCOMES[code]
    member, diary, norms = Member(0, "a"), Diary(), Norms()
    norm, _ = norms.of("/a"), norms.of("/b")
    member.observer = diary
    token = member.begin(0.0, True)
    settle(member, token, code, 2.0, 1.5, norm)
    for again in OUTCOMES:
        settle(member, token, again, 3.0, 2.5, norm)
    assert diary.told == [("started", 0.0, True), (word, 2.0, 1.5)]
    assert (member.in_flight, member.failures) == (0, failures)
    assert (member.latency, norm.usual) == ((1.5, 1.5) if code is OK else (None, None))


class WithCode(grpc.RpcError):  # type: ignore[misc]
    def code(self) -> grpc.StatusCode:
        return UNAVAILABLE


@pytest.mark.parametrize(
    ("error", "code"),
    [(WithCode(), UNAVAILABLE), (grpc.RpcError(), None), (ValueError(), None), (KeyboardInterrupt(), None)],
    ids=["a status", "an error of grpc's without one", "another error", "an interrupt"],
)
def test_the_status_of_an_exception_is_what_it_carries(error: BaseException, code: grpc.StatusCode | None) -> None:
    assert code_of(error) is code


# --- the end of a call


@every_outcome
def test_a_call_that_ends_is_settled_by_its_status(line: Line, code: grpc.StatusCode | None) -> None:
    call = Call(code)
    flight = line.start(call)
    assert line.member.in_flight == 1
    flight.ended()
    word, failures = OUTCOMES[code]
    assert line.diary.told[1:] == [(word, 2.5, 2.5 if line.method.timed else None)]
    assert (line.member.in_flight, line.member.failures) == (0, failures)
    assert line.method.suspects == ([line.member] if code is UNAVAILABLE else [])


def test_the_first_end_counts(line: Line) -> None:
    call = Call()
    flight = line.start(call)
    flight.ended()
    call.status = grpc.StatusCode.INTERNAL
    flight.ended()
    flight.abandoned()
    del call
    gc.collect()
    assert line.ends() == ["answered"]
    assert (line.member.in_flight, line.member.failures) == (0, 0)


def test_every_call_ends_once_however_many_threads_say_so(hasty: None, line: Line) -> None:
    calls = [Call(code) for code in itertools.islice(itertools.cycle(OUTCOMES), 500)]
    flights = [line.start(call) for call in calls]

    def end() -> None:
        for flight in flights:
            flight.ended()

    in_threads(16, end)
    assert line.member.in_flight == 0
    assert sorted(line.ends()) == sorted(OUTCOMES[call.status][0] for call in calls)


def test_the_latency_is_told_without_the_differences_between_methods() -> None:
    line = Line()
    for _ in range(1000):
        line.method.norms.of("/quick").learn(0.5)
        line.method.norm.learn(5.0)
    calls = [Call(code) for code in (OK, UNAVAILABLE, None)]
    for flight in [line.start(call) for call in calls]:
        flight.ended()
    typical = line.method.norms.typical
    assert typical is not None
    # Half of what its method takes.
    told = [latency for kind, _, latency in line.diary.told if kind != "started"]
    assert told == [pytest.approx(typical / 2, rel=0.05)] * 3


# --- the death of a call


def test_a_call_that_is_dropped_ends_with_its_death(line: Line) -> None:
    call = Call()
    # Kept by the member alone.
    line.start(call)
    assert line.member.in_flight == 1
    del call
    gc.collect()
    assert line.diary.told[1:] == [("dropped", 2.5, 2.5 if line.method.timed else None)]
    assert (line.member.in_flight, line.member.failures) == (0, 0)
    assert line.method.suspects == []


def test_a_call_is_not_kept_alive_by_what_watches_it(line: Line) -> None:
    call = Call()
    call.itself = call  # type: ignore[attr-defined]
    seen = weakref.ref(call)
    flight = line.start(call)
    del call
    gc.collect()
    assert seen() is None
    assert flight() is None
    assert line.ends() == ["dropped"]


def test_a_call_that_is_dead_when_its_end_is_told_of_was_dropped(line: Line) -> None:
    # As when grpc tells of the end in one thread, while the last reference goes in another.
    call = Call()
    flight = line.start(call)
    gone = InFlight(call)
    gone.member, gone.method, gone.started = flight.member, flight.method, flight.started
    line.member.leases.discard(flight)
    line.member.leases.add(gone)
    del call
    gc.collect()
    assert line.ends() == []
    gone.ended()
    assert line.ends() == ["dropped"]
    assert line.member.in_flight == 0


def test_a_retired_member_is_idle_when_its_last_call_is_dead(line: Line) -> None:
    idle: list[Member] = []
    line.member.on_idle = idle.append
    call = Call()
    line.start(call)
    assert not line.member.retire()
    del call
    gc.collect()
    assert idle == [line.member]


# --- calls of somebody's own


class Unhashable(Call):
    """As an interceptor may return one: equal to all others of its kind, and with no hash."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable)


class Equal(Call):
    """Equal to all others of its kind, hash and all."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    def __hash__(self) -> int:
        return 42


@pytest.mark.parametrize("kind", [Unhashable, Equal])
def test_two_equal_calls_are_two_rpcs(line: Line, kind: type[Call]) -> None:
    one, two, three = kind(), kind(UNAVAILABLE), kind()
    assert one == two
    first, second, third = line.start(one), line.start(two), line.start(three)
    assert len({first, second, third}) == line.member.in_flight == 3
    second.ended()
    second.ended()
    assert line.member.leases == {first, third}
    first.ended()
    assert line.member.leases == {third}
    del third, three
    gc.collect()
    assert line.member.in_flight == 0
    assert line.ends() == ["failed", "answered", "dropped"]


def test_the_same_call_twice_is_two_rpcs(line: Line) -> None:
    # As when an interceptor keeps an answer and hands it out again.
    call = Call()
    first, second = line.start(call), line.start(call)
    assert line.member.in_flight == 2
    first.ended()
    assert line.member.in_flight == 1
    del call
    gc.collect()
    assert line.member.in_flight == 0
    assert line.ends() == ["answered", "dropped"]
    assert first != second
